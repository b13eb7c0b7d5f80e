"""tokenizer.model (SentencePiece) from a tokenizer.json of the same kind, for llama.cpp's converter.

Llama 2, Mistral and Gemma tokenizers are SentencePiece BPE: llama.cpp joins the pair whose piece has the best score.
transformers saves only tokenizer.json, with a list of merges in place of scores; there the pair that comes first is
joined. So a piece gets minus the place of the first merge that makes it, and both join in the same order.
Reference: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from tunesmith.errors import ExportError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE_PIECE = 1, 2, 3, 4, 6
_BPE = 2


def is_sentencepiece(folder: Path) -> bool:
    """Whether the folder's tokenizer.json is a BPE that falls back to bytes, as SentencePiece's is."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return False
    model = json.loads(file.read_text(encoding="utf-8"))["model"]
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def write_sentencepiece(folder: Path, out: Path) -> None:
    """Write the tokenizer of `folder` to `out`. Raises: ExportError when the package sentencepiece is missing."""
    if importlib.util.find_spec("sentencepiece") is None:
        raise ExportError(
            "this tokenizer is SentencePiece, which needs a package to be written for llama.cpp",
            fix='pip install "tunesmith[sentencepiece]"',
        )
    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = settings["model"]
    made = proto.ModelProto()
    for text, score, kind in pieces_of(settings):
        made.pieces.add(piece=text, score=score, type=kind)
    made.trainer_spec.model_type = _BPE
    made.trainer_spec.byte_fallback = True
    made.trainer_spec.vocab_size = len(made.pieces)
    if model.get("unk_token"):
        made.trainer_spec.unk_piece = model["unk_token"]
    made.normalizer_spec.name = "identity"
    made.normalizer_spec.add_dummy_prefix = _adds_space(settings)
    made.normalizer_spec.remove_extra_whitespaces = False
    made.normalizer_spec.escape_whitespaces = True
    out.write_bytes(made.SerializeToString())


def pieces_of(settings: dict[str, Any]) -> list[tuple[str, float, int]]:
    """(text, score, type) of every piece of a tokenizer.json, by id; the types are those of SentencePiece."""
    model = settings["model"]
    places: dict[str, int] = {}
    for place, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        places.setdefault(left + right, place)
    kinds = {token["content"]: _CONTROL if token["special"] else _USER_DEFINED for token in settings["added_tokens"]}
    if model.get("unk_token"):
        kinds[model["unk_token"]] = _UNKNOWN
    texts = model["vocab"] | {token["content"]: token["id"] for token in settings["added_tokens"]}
    worst = -float(len(model["merges"]) + 1)
    return [
        (text, -float(places[text]) if text in places else worst, kinds.get(text) or _kind(text))
        for text in sorted(texts, key=texts.__getitem__)
    ]


def _kind(text: str) -> int:
    return _BYTE_PIECE if _BYTE.fullmatch(text) else _NORMAL


def adds_space(folder: Path) -> bool:
    """Whether the tokenizer of `folder` puts a space in front of a text."""
    return _adds_space(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))


def _adds_space(settings: dict[str, Any]) -> bool:
    """Whether a space is put in front of a text."""
    normalizer = settings.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    pre_tokenizer = settings.get("pre_tokenizer") or {}
    return any(step.get("type") == "Prepend" for step in steps) or pre_tokenizer.get("prepend_scheme") in (
        "first",
        "always",
    )
