"""A LoRA adapter as a GGUF file, for llama.cpp (`--lora`) and Ollama (`ADAPTER`), proven on its base.

The file holds the low-rank matrices and alpha, a few MB, and acts on any GGUF file of the same base. The proof writes
the base as f16 (f32 where the tuned model is), lets llama.cpp put the adapter on it, and compares the answers with the
tuned model's, as for whole models. The base is only written for that and removed.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.config.resolve import Resolved
from tunesmith.errors import ExportError
from tunesmith.export.destination import PROOF_FILE, check_destination, refuse_idle_adapters, refuse_quantized
from tunesmith.export.gguf import check_gguf_tools, gguf_table, run_gguf_proof
from tunesmith.export.gguf_convert import check_plain_lora, convert_adapter, convert_model
from tunesmith.export.gguf_prompts import make_gguf_task
from tunesmith.infer.locate import Located, locate
from tunesmith.infer.session import open_renderer
from tunesmith.model.folder import open_permissions, put_in_place
from tunesmith.render import Renderer

ADAPTER_FILE = "adapter.gguf"
_BASE_FILE, _BASE_TYPE = "base.gguf", "f16"
EXIT_NOT_PROVEN = 1


def export_adapter(resolved: Resolved) -> int:
    """Write and prove the adapter that `resolved` names as GGUF; returns 0, or 1 when the proof failed.

    Raises: ExportError, ModelError, TemplateError: as `merge.export`; also for an adapter that GGUF cannot hold.
    """
    from tunesmith.model.load import model_folder

    destination = check_destination(resolved.config)
    check_gguf_tools()
    located = locate(resolved)
    config = replace(resolved.config, model_name_or_path=located.model, export_gguf_type=(_BASE_TYPE,))
    base = model_folder(config)
    refuse_quantized(config, base)
    refuse_idle_adapters(located)
    adapter = _only_adapter(located)
    renderer = open_renderer(config, located)
    for note in (*resolved.notes, *located.notes, *renderer.notes):
        _say(f"note: {note}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{destination.name}.part-", dir=destination.parent))
    try:
        _say(f"writing: {ADAPTER_FILE} from {adapter}")
        convert_adapter(adapter, base, part / ADAPTER_FILE)
        renderer.tokenizer.save_pretrained(part)
        proof = _prove(config, located, renderer, base, part)
        (part / PROOF_FILE).write_text(json.dumps(proof, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        open_permissions(part)
        target = destination.with_name(destination.name + ".failed") if proof["problems"] else destination
        put_in_place(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(gguf_table(proof["gguf"]), flush=True)
    print("\n".join([f"proof: {target / PROOF_FILE}", *(f"problem: {text}" for text in proof["problems"])]), flush=True)
    return EXIT_NOT_PROVEN if proof["problems"] else 0


def _only_adapter(located: Located) -> Path:
    """Raises: ExportError when there is not exactly one, or it holds more than low-rank matrices."""
    if len(located.adapters) != 1:
        raise ExportError(
            f"{len(located.adapters)} adapters are named, a GGUF adapter is made of one",
            fix="Name one in adapter_name_or_path, or merge them: export_format: gguf",
        )
    adapter = Path(located.adapters[0])
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    check_plain_lora(settings, adapter)
    return adapter


def _prove(config: Any, located: Located, renderer: Renderer, base: Path, part: Path) -> dict[str, Any]:
    """The base as GGUF with the adapter on it, against the tuned model."""
    from tunesmith.model.fingerprint import file_sha256, weights_fingerprint

    with tempfile.TemporaryDirectory(prefix=".base-", dir=part.parent) as scratch:
        place = Path(scratch)
        convert_model(base, place / _BASE_FILE, _BASE_TYPE, name="base", base=base)
        (place / ADAPTER_FILE).symlink_to((part / ADAPTER_FILE).resolve())
        _say("proving: base and adapter in llama.cpp")
        task = make_gguf_task(config, located, renderer, [_BASE_FILE], compute_dtype="float32")
        measured = run_gguf_proof({**task, "adapter": ADAPTER_FILE, "type": _BASE_TYPE}, place)
    problems = [text.replace(f"{_BASE_FILE}: ", f"{ADAPTER_FILE}: ") for text in measured.pop("problems")]
    measured["files"][ADAPTER_FILE] = measured["files"].pop(_BASE_FILE) | {
        "sha256": file_sha256(part / ADAPTER_FILE),
        "size_bytes": (part / ADAPTER_FILE).stat().st_size,
    }
    return {
        "tunesmith": __version__,
        "base": located.model,
        "base_weights": weights_fingerprint(base),
        "adapters": list(located.adapters),
        "gguf": measured,
        "files_sha256": {path.name: file_sha256(path) for path in sorted(part.iterdir()) if path.name != PROOF_FILE},
        "problems": problems,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
