"""Export: merge what was tuned into a plain or quantized model folder, prove it, put it in place, push it.

The order keeps an earlier export safe: everything is checked before weights are read, written beside the destination,
proven there in a fresh process, and only then renamed. An export that fails its proof is kept as `<export_dir>.failed`
and goes to no hub.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tunesmith.config import Config
from tunesmith.config.resolve import Resolved
from tunesmith.export.calibration import calibration_rows
from tunesmith.export.chat_template import ChatTemplateChoice, choose_chat_template
from tunesmith.export.destination import (
    check_base_record,
    check_destination,
    check_disk,
    refuse_idle_adapters,
    refuse_quantized,
)
from tunesmith.export.gguf import check_gguf_tools, gguf_table, write_gguf
from tunesmith.export.heldout import HeldOut, held_out_rows
from tunesmith.export.hub import check_hub, push
from tunesmith.export.proof import make_task, run_proof
from tunesmith.export.report import proof_table
from tunesmith.export.write import Quantizing, write_export
from tunesmith.infer.locate import Located, locate
from tunesmith.infer.session import open_renderer
from tunesmith.model.folder import open_permissions, put_in_place
from tunesmith.model.quantize_folder import check_quantizing, form_of
from tunesmith.render import Renderer

EXIT_NOT_PROVEN = 1


@dataclass(frozen=True)
class _Job:
    """Everything that was decided before weights are read."""

    config: Config
    located: Located
    renderer: Renderer
    template: ChatTemplateChoice
    held_out: HeldOut
    quantizing: Quantizing | None


def export(resolved: Resolved) -> int:
    """Write and prove the model that `resolved` names, and push it when a hub is named.

    Returns: 0, or 1 when the proof failed.

    Raises:
        ExportError: refused before writing, a full disk, a proof that could not run, or a hub that refused.
        ModelError, TemplateError, DataError: the parts do not fit each other.
    """
    destination = check_destination(resolved.config)
    job = _plan(resolved, destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{destination.name}.part-", dir=destination.parent))
    try:
        return _write_and_prove(job, part, destination)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _plan(resolved: Resolved, destination: Path) -> _Job:
    """Check everything that can be refused, tell what was decided, and read the rows that are needed."""
    from tunesmith.model.load import model_options

    if resolved.config.export_format == "gguf":
        check_gguf_tools()
    located = locate(resolved)
    config = replace(resolved.config, model_name_or_path=located.model)
    base = _base_folder(config)
    refuse_quantized(config, base)
    refuse_idle_adapters(located)
    check_base_record(located, base)
    form = form_of(config)
    quantizing_notes = check_quantizing(form) if form else []
    check_hub(config)
    dtype = _export_dtype(config)
    check_disk(base, destination, dtype, is_quantized=form is not None)
    _, option_notes = model_options(config, for_training=False, adapters=located.adapters)
    renderer = open_renderer(config, located)
    template = choose_chat_template(renderer)
    adapters_note = "" if located.adapters else "no adapter is named: the base is written as it is"
    notes = (*resolved.notes, *located.notes, *option_notes, *quantizing_notes, *renderer.notes, adapters_note)
    for note in (*notes, template.note):
        _say(f"note: {note}" if note else "")
    calibration = None
    if form is not None and form.is_calibrated:
        calibration = calibration_rows(config, renderer, resolved.config_dir)
        _say(calibration.describe())
    quantizing = None if form is None else Quantizing(form, calibration)
    held_out = held_out_rows(config, located.run_dir, renderer)
    return _Job(replace(config, infer_dtype=dtype), located, renderer, template, held_out, quantizing)


def _write_and_prove(job: _Job, part: Path, destination: Path) -> int:
    config, quantizing = job.config, job.quantizing
    kept = f", then {quantizing.form.describe()}" if quantizing else ""
    _say(f"merging: {job.located.describe()} ({config.infer_dtype}{kept})")
    is_tied, form = write_export(config, job.located, job.renderer, job.template.jinja, part, quantizing)
    _say("proving: reloading what was written in a fresh process")
    task = make_task(
        config,
        job.located,
        job.renderer,
        is_tied=is_tied,
        chat_template=job.template.jinja,
        has_faithful_template=job.template.is_faithful,
        held_out=job.held_out,
        quantization=asdict(form) if form else None,
    )
    proof = run_proof(task, part)
    if config.export_format == "gguf" and not proof["problems"]:
        write_gguf(config, job.located, job.renderer, part, proof)
    open_permissions(part)
    is_proven = not proof["problems"]
    target = destination if is_proven else destination.with_name(destination.name + ".failed")
    put_in_place(part, target)
    print(proof_table(proof, target), flush=True)
    if "gguf" in proof:
        print(gguf_table(proof["gguf"]), flush=True)
    if not is_proven:
        return EXIT_NOT_PROVEN
    if config.export_hub_model_id:
        _say(push(config, job.located, proof, target))
    return 0


def _base_folder(config: Config) -> Path:
    from tunesmith.model.load import model_folder
    from tunesmith.model.verify import verify_model_folder

    folder = model_folder(config)
    verify_model_folder(folder)
    return folder


def _export_dtype(config: Config) -> str:
    from tunesmith.model.load import inference_dtype

    return str(inference_dtype(config)).removeprefix("torch.")


def _say(line: str) -> None:
    if line:
        print(line, file=sys.stderr, flush=True)
