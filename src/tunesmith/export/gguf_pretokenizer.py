"""The name that llama.cpp gives to the rule by which a byte-level BPE tokenizer splits a text before its merges.

Read off tokenizer.json: the sequence of splitting steps is compared with those of the published tokenizers that
llama.cpp implements (src/llama-vocab.cpp names them). Other rules are left to the table of llama.cpp's converter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

_NAMES: dict[tuple[str, ...], str] = {
    ("bytes+words",): "gpt-2",
    ("digits", "bytes+words"): "smollm",
    (f"split {_LLAMA3}", "bytes"): "llama-bpe",
    (f"split {_QWEN2}", "bytes"): "qwen2",
}


def pre_tokenizer_name(folder: Path) -> str:
    """llama.cpp's name for the rule of the tokenizer in `folder`; empty when it is none of those known here."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return ""
    settings = json.loads(file.read_text(encoding="utf-8"))
    rule, model = settings.get("pre_tokenizer"), settings["model"]
    if not rule or model.get("type") != "BPE":
        return ""
    name = _NAMES.get(tuple(_steps(rule)), "")
    # the same rule has two names: with llama-bpe a word that is a token stays whole, whatever the merges say
    return "dbrx" if name == "llama-bpe" and not model.get("ignore_merges") else name


def _steps(rule: dict[str, Any]) -> list[str]:
    """A word for each step of a pre-tokenizer of the `tokenizers` library."""
    kind = rule["type"]
    if kind == "Sequence":
        return [step for inner in rule["pretokenizers"] for step in _steps(inner)]
    if kind == "ByteLevel":
        return ["bytes+words" if rule.get("use_regex", True) else "bytes"]
    if kind == "Digits":
        return ["digits" if rule.get("individual_digits") else "runs of digits"]
    if kind == "Split":
        return [f"split {rule['pattern'].get('Regex', '')}"]
    return [str(kind)]
