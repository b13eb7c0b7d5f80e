"""Are the GGUF files of a folder whole? Headers and sizes only; see `model/wholeness.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.model.checks import NUM_NAMED, Check, named
from tunesmith.model.gguf_header import GGUFHeader, read_gguf_header

_STOPS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


def check_gguf_files(folder: Path) -> list[Check]:
    """Files, tensors, tokenizer, template and stop tokens, in this order. Adapters bring no tokenizer."""
    headers, faults = {}, []
    for file in sorted(folder.glob("*.gguf")):
        try:
            headers[file.name] = read_gguf_header(file)
        except ModelError as error:
            faults.append(": ".join(filter(None, (error.what, error.why))))
    if faults:
        return [Check("GGUF files", "FAIL", "; ".join(faults[:NUM_NAMED]))]
    size = sum(file.stat().st_size for file in folder.glob("*.gguf"))
    models = {name: header for name, header in headers.items() if header.fields.get("general.type") != "adapter"}
    checks = [Check("GGUF files", "ok", f"{len(headers)}, {size / 1e9:.2f} GB"), _tensors(headers)]
    return [*checks, _tokenizer(models), _chat_template(models), _stop_tokens(models, folder)] if models else checks


def _tensors(headers: dict[str, GGUFHeader]) -> Check:
    places = [(name, tensor) for name, header in headers.items() for tensor in header.tensors]
    empty = [f"{tensor.name} of {name}" for name, tensor in places if 0 in tensor.shape]
    empty += [f"all of {name}" for name, header in headers.items() if not header.tensors]
    if empty:
        return Check("empty tensors", "FAIL", f"{len(empty)}: {named(empty)}")
    return Check("empty tensors", "ok", f"none of {len(places)}")


def _tokenizer(models: dict[str, GGUFHeader]) -> Check:
    without = [name for name, header in models.items() if not _vocabulary(header)]
    if without:
        return Check("tokenizer", "FAIL", f"missing in {named(without)}")
    sizes = sorted({_vocabulary(header) for header in models.values()})
    return Check("tokenizer", "ok", f"{', '.join(f'{size:,}' for size in sizes)} tokens")


def _vocabulary(header: GGUFHeader) -> int:
    tokens = header.fields.get("tokenizer.ggml.tokens")
    return int(tokens[0]) if isinstance(tokens, tuple) else 0


def _chat_template(models: dict[str, GGUFHeader]) -> Check:
    without = [name for name, header in models.items() if not header.fields.get("tokenizer.chat_template")]
    if without:
        return Check("chat template", "note", f"none in {named(without)}: name `template` yourself")
    return Check("chat template", "ok", "in the files")


def _stop_tokens(models: dict[str, GGUFHeader], folder: Path) -> Check:
    """Inside the vocabulary, and among those of the proof where there is one."""
    proven = _proven(folder)
    ids: set[int] = set()
    for name, header in models.items():
        own = {int(header.fields[key]) for key in _STOPS if key in header.fields}
        if any(number >= _vocabulary(header) for number in own):
            return Check("stop tokens", "FAIL", f"{sorted(own)} of {name} are outside its vocabulary")
        if proven is not None and not own & set(proven):
            return Check("stop tokens", "FAIL", f"{name} stops at {sorted(own)}, the proven export at {proven}")
        ids |= own
    return Check("stop tokens", "ok" if ids else "note", str(sorted(ids)) if ids else "none named")


def _proven(folder: Path) -> list[int] | None:
    try:
        found: Any = json.loads((folder / "proof.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("stop_ids") if isinstance(found, dict) else None
