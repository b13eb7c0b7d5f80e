"""GGUF files from a merged model folder, proven in llama.cpp, with a Modelfile for Ollama beside them.

Comes after the merge and its proof: the merged weights are on disk as safetensors, and the conversion starts from
those. When every file holds its proof, the safetensors files go and the folder is: model-TYPE.gguf for each type, the
tokenizer, Modelfile, proof.json. Disk: the merged weights and all files are there at the same time.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.errors import ExportError
from tunesmith.export.destination import PROOF_FILE
from tunesmith.export.gguf_convert import conversion_tools, convert_model
from tunesmith.export.gguf_prompts import make_gguf_task
from tunesmith.export.gguf_proof import WIDE
from tunesmith.export.gguf_quantize import K_TYPES, quantize_file
from tunesmith.export.ollama import write_modelfile
from tunesmith.infer.llamacpp_native import library
from tunesmith.infer.locate import Located
from tunesmith.model.value_head import VALUE_HEAD
from tunesmith.render import Renderer
from tunesmith.types import Message

_REPLACED = (".safetensors", ".safetensors.index.json")
_REPLACED_NAMES = ("config.json", "generation_config.json")


def check_gguf_tools() -> None:
    """Raises: ExportError, ModelError: what writes and proves GGUF files is not installed. Asked before the merge."""
    conversion_tools()
    library()


def write_gguf(config: Config, located: Located, renderer: Renderer, part: Path, proof: dict[str, Any]) -> None:
    """Put GGUF files in the place of the merged weights in `part`, prove them, and add to `proof` and its file.

    Args:
        config: with the dtype of the export as `infer_dtype`.
        proof: of the merged folder; gets `gguf` and, for what does not hold, `problems`.

    Raises: ExportError when a file cannot be written or the proof cannot run.
    """
    from tunesmith.model.load import model_folder

    if (part / VALUE_HEAD).is_file():
        raise ExportError("a reward model cannot be written as GGUF", why="Its value head would be lost.")
    base = model_folder(config)
    name = Path(config.export_dir or "model").name
    prompt = renderer.prompt([Message("user", "?")])
    starts_with_bos = renderer.tokenizer.bos_token_id is not None and prompt[0] == renderer.tokenizer.bos_token_id
    write = partial(convert_model, name=name, base=base, starts_with_bos=starts_with_bos)
    files = write_types(part, part, config.export_gguf_type, WIDE[config.infer_dtype], write)
    _say("proving: reloading the GGUF files in llama.cpp")
    task = make_gguf_task(config, located, renderer, files, compute_dtype=proof["compute_dtype"])
    measured = run_gguf_proof(task, part)
    proof["problems"] += measured.pop("problems")
    proof["gguf"] = measured
    proof["gguf"]["modelfile"] = write_modelfile(config, renderer, part, files[0], proof["problems"])
    _remove_merged(part, proof)
    (part / PROOF_FILE).write_text(json.dumps(proof, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_types(
    source: Path, folder: Path, types: tuple[str, ...], wide: str, write: Callable[[Path, Path, str], None]
) -> list[str]:
    """Write one file per type to `folder`; returns their names.

    Args:
        source: the merged model. wide: the type that holds its weights without loss, from which K-quants are made.
        write: converts a model folder to a file of a type (`convert_model`).
    """
    files = []
    with tempfile.TemporaryDirectory(prefix=".gguf-", dir=folder) as scratch:
        for type_name in dict.fromkeys(types):
            _say(f"writing: {type_name}")
            out = folder / f"model-{type_name}.gguf"
            if type_name in K_TYPES:
                unrounded = Path(scratch) / f"{wide}.gguf"
                if not unrounded.is_file():
                    write(source, unrounded, wide)
                quantize_file(unrounded, out, type_name)
            else:
                write(source, out, type_name)
            files.append(out.name)
    return files


def run_gguf_proof(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Prove files in a fresh process; returns what was measured, `problems` among it.

    Raises: ExportError when it cannot run.
    """
    from tunesmith.runs.process import run_module

    with tempfile.TemporaryDirectory(prefix="tunesmith-proof-") as scratch:
        task_file, result = Path(scratch) / "task.json", Path(scratch) / "result.json"
        task_file.write_text(json.dumps(task, ensure_ascii=False), encoding="utf-8")
        finished = run_module("tunesmith.export.gguf_proof", [str(task_file), str(folder), str(result)])
        if not result.is_file():
            raise ExportError(
                f"the proof of the GGUF files could not run (exit code {finished.returncode})",
                why="\n".join(finished.stderr.strip().splitlines()[-8:])
                or "It was stopped, perhaps for lack of memory.",
                fix="Nothing was put in place. Remove the cause and export again.",
            )
        measured: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return measured


def gguf_table(measured: dict[str, Any]) -> str:
    """What the proof measured, as lines for the terminal: one row per file."""
    rows = [("file", "MB", "prompts' tokens", "greedy answers", "greedy tokens", "KL, nats", "loss", "tokens/s")]
    total = measured["num_prompts"]
    for name, file in measured["files"].items():
        rows.append(
            (
                name,
                f"{file['size_bytes'] / 1e6:.1f}",
                f"{file['num_prompts_equal']}/{total} equal",
                f"{file['num_answers_equal']}/{total} equal",
                f"{file['greedy_agreement']:.1%}",
                f"{file['kl_mean']:.2g}",
                f"{file['loss']:.4f} (tuned {measured['loss_of_tuned']:.4f})",
                f"{file['tokens_per_second']:.0f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _remove_merged(part: Path, proof: dict[str, Any]) -> None:
    """Take the merged weights out of the folder and out of the list of its files; put the new ones in."""
    from tunesmith.model.fingerprint import file_sha256

    for path in list(part.iterdir()):
        if path.name.endswith(_REPLACED) or path.name in _REPLACED_NAMES:
            path.unlink()
    kept = sorted(path for path in part.rglob("*") if path.is_file() and path.name != PROOF_FILE)
    proof["files_sha256"] = {str(path.relative_to(part)): file_sha256(path) for path in kept}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
