"""Export: merge what was tuned into a plain model folder, prove it in a fresh process, then put it in place.

The order keeps an earlier export safe: everything is checked before weights are read, written beside the destination,
proven there, and only then renamed. An export that fails its proof is kept as `<export_dir>.failed`.
"""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.config.resolve import Resolved
from tunesmith.errors import ExportError
from tunesmith.export.chat_template import ChatTemplateChoice, choose_chat_template
from tunesmith.export.destination import check_destination, check_disk, refuse_idle_adapters, refuse_quantized
from tunesmith.export.gguf import check_gguf_tools, gguf_table, write_gguf
from tunesmith.export.proof import make_task, run_proof
from tunesmith.export.report import proof_table
from tunesmith.infer.locate import Located, locate
from tunesmith.infer.session import open_renderer
from tunesmith.model.folder import open_permissions, put_in_place
from tunesmith.render import Renderer

EXIT_NOT_PROVEN = 1


def export(resolved: Resolved) -> int:
    """Write and prove the model that `resolved` names; returns 0, or 1 when the proof failed.

    Raises:
        ExportError: refused before writing, a full disk, or a proof that could not run.
        ModelError, TemplateError: the parts do not fit each other.
    """
    from tunesmith.model.load import model_options

    destination = check_destination(resolved.config)
    if resolved.config.export_format == "gguf":
        check_gguf_tools()
    located = locate(resolved)
    config = replace(resolved.config, model_name_or_path=located.model)
    base = _base_folder(config)
    refuse_quantized(config, base)
    refuse_idle_adapters(located)
    dtype = _export_dtype(config)
    check_disk(base, destination, dtype)
    _, option_notes = model_options(config, for_training=False, adapters=located.adapters)
    renderer = open_renderer(config, located)
    template = choose_chat_template(renderer)
    adapters_note = "" if located.adapters else "no adapter is named: the base is written as it is"
    for note in (*resolved.notes, *located.notes, *option_notes, *renderer.notes, adapters_note, template.note):
        _say(f"note: {note}" if note else "")
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{destination.name}.part-", dir=destination.parent))
    try:
        return _write_and_prove(replace(config, infer_dtype=dtype), located, renderer, template, part, destination)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_and_prove(
    config: Config,
    located: Located,
    renderer: Renderer,
    template: ChatTemplateChoice,
    part: Path,
    destination: Path,
) -> int:
    _say(f"merging: {located.describe()} ({config.infer_dtype})")
    is_tied = _write(config, located, renderer, template, part)
    _say("proving: reloading what was written in a fresh process")
    task = make_task(config, located, renderer, is_tied=is_tied, has_faithful_template=template.is_faithful)
    proof = run_proof(task, part)
    if config.export_format == "gguf" and not proof["problems"]:
        write_gguf(config, located, renderer, part, proof)
    open_permissions(part)
    is_proven = not proof["problems"]
    target = destination if is_proven else destination.with_name(destination.name + ".failed")
    put_in_place(part, target)
    print(proof_table(proof, target), flush=True)
    if "gguf" in proof:
        print(gguf_table(proof["gguf"]), flush=True)
    return 0 if is_proven else EXIT_NOT_PROVEN


def _write(config: Config, located: Located, renderer: Renderer, template: ChatTemplateChoice, part: Path) -> bool:
    """Write model and tokenizer to `part`; returns whether the embeddings share one tensor there.

    All memory of the model is given back, since the proof loads it again.
    """
    from safetensors import SafetensorError

    from tunesmith.model.load import model_options
    from tunesmith.model.quiet import quiet_transformers

    model = _merged(config, located)
    _settle_generation(model, renderer)
    is_tied = bool(model.config.get_text_config().tie_word_embeddings)
    rope, _ = model_options(config, for_training=False, adapters=located.adapters)
    tokenizer = renderer.tokenizer
    own_template, tokenizer.chat_template = tokenizer.chat_template, template.jinja
    try:
        with quiet_transformers():
            model.save_pretrained(part, max_shard_size=f"{config.export_size}GB")
            tokenizer.save_pretrained(part)
        _copy_value_head(located, part)
        if rope.scaling is not None:  # config.json holds it; this says that it is not to be applied once more
            rope.scaling.write(part)
    except (OSError, SafetensorError) as error:  # safetensors does not report a full disk as an OSError
        raise ExportError(
            f"writing to {part.parent} failed: {getattr(error, 'strerror', None) or error}",
            why="The disk may be full. What had been written is removed; an earlier export is untouched.",
            fix="Free some space, or set export_dir to another disk.",
        ) from error
    finally:
        tokenizer.chat_template = own_template
    del model
    gc.collect()
    return is_tied


def _copy_value_head(located: Located, part: Path) -> None:
    """What makes a reward model one: the value head beside the adapter or model that is exported."""
    from tunesmith.model.value_head import VALUE_HEAD

    head = Path(located.adapters[-1] if located.adapters else located.model) / VALUE_HEAD
    if head.is_file():
        shutil.copyfile(head, part / VALUE_HEAD)
        _say(f"{VALUE_HEAD} goes with it: the export is a whole reward model (reward_model_type: full)")


def _merged(config: Config, located: Located) -> Any:
    """The merged model in the dtype of the export.

    Each weight is rounded once: one adapter is added to weights in that dtype (the sum itself is taken in float32).
    Several adapters, or a base in another dtype, are brought together in float32 first.
    """
    import torch

    from tunesmith.model.adapters import merge_adapters
    from tunesmith.model.load import DTYPES, load_model

    dtype = DTYPES[config.infer_dtype]
    uses_gpu = config.export_device == "auto" and torch.cuda.is_available()
    is_one_rounding = len(located.adapters) <= 1 and _base_dtype(config) == dtype
    while_merging = dtype if is_one_rounding else torch.float32
    device = "cuda" if uses_gpu else "cpu"
    model = load_model(config, dtype=while_merging, device=device, for_training=False, adapters=located.adapters)
    return merge_adapters(model, located.adapters).to(dtype)


def _settle_generation(model: Any, renderer: Renderer) -> None:
    """Make the folder stop where the renderer stops, for everybody who calls `generate` on it."""
    settings = model.generation_config
    stops = list(renderer.stop_ids)
    settings.eos_token_id = stops if len(stops) > 1 else stops[0]
    settings.pad_token_id = renderer.tokenizer.pad_token_id
    if any(value is not None for value in (settings.temperature, settings.top_p, settings.top_k)):
        settings.do_sample = True  # sampling values beside do_sample: false are refused when saving


def _base_folder(config: Config) -> Path:
    from tunesmith.model.load import model_folder
    from tunesmith.model.verify import verify_model_folder

    folder = model_folder(config)
    verify_model_folder(folder)
    return folder


def _export_dtype(config: Config) -> str:
    from tunesmith.model.load import inference_dtype

    return str(inference_dtype(config)).removeprefix("torch.")


def _base_dtype(config: Config) -> Any:
    from tunesmith.model.load import inference_dtype

    return inference_dtype(replace(config, infer_dtype="auto"))


def _say(line: str) -> None:
    if line:
        print(line, file=sys.stderr, flush=True)
