"""What a GGUF file says about a tokenizer: the rule that splits texts, and SentencePiece scores from merges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tiny import tiny_tokenizer
from tests.tiny_sentencepiece import tiny_sentencepiece

from tunesmith.export.gguf_pretokenizer import _LLAMA3, _QWEN2, pre_tokenizer_name
from tunesmith.export.gguf_prompts import _TEXTS
from tunesmith.export.gguf_sentencepiece import is_sentencepiece, write_sentencepiece


def folder_with(path: Path, pre_tokenizer: object, **model: object) -> Path:
    settings = {"model": {"type": "BPE", "vocab": {}, "merges": [], **model}, "pre_tokenizer": pre_tokenizer}
    (path / "tokenizer.json").write_text(json.dumps(settings))
    return path


def steps(*inner: object) -> dict[str, object]:
    return {"type": "Sequence", "pretokenizers": list(inner)}


BYTES = {"type": "ByteLevel", "use_regex": False}
WORDS = {"type": "ByteLevel", "use_regex": True}


@pytest.mark.parametrize(
    ("rule", "model", "name"),
    [
        (WORDS, {}, "gpt-2"),
        (steps({"type": "Digits", "individual_digits": True}, WORDS), {}, "smollm"),
        (steps({"type": "Digits", "individual_digits": False}, WORDS), {}, ""),
        (steps({"type": "Split", "pattern": {"Regex": _LLAMA3}}, BYTES), {"ignore_merges": True}, "llama-bpe"),
        (steps({"type": "Split", "pattern": {"Regex": _LLAMA3}}, BYTES), {}, "dbrx"),
        (steps({"type": "Split", "pattern": {"Regex": _QWEN2}}, BYTES), {}, "qwen2"),
        (steps({"type": "Split", "pattern": {"Regex": "x"}}, BYTES), {}, ""),
        (BYTES, {}, ""),
        (None, {}, ""),
        (WORDS, {"type": "Unigram"}, ""),
    ],
)
def test_a_rule_has_the_name_that_llamacpp_gives_it(
    tmp_path: Path, rule: object, model: dict[str, object], name: str
) -> None:
    assert pre_tokenizer_name(folder_with(tmp_path, rule, **model)) == name


def test_a_made_sentencepiece_model_gives_the_tokens_of_tokenizer_json(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    tokenizer = tiny_sentencepiece(tmp_path)
    assert is_sentencepiece(tmp_path)
    write_sentencepiece(tmp_path, tmp_path / "tokenizer.model")
    processor = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert processor.vocab_size() == len(tokenizer)
    for text in _TEXTS:
        if "ﬁ" not in text:
            assert processor.encode(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_a_byte_level_tokenizer_is_no_sentencepiece(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    assert not is_sentencepiece(tmp_path)
    assert not is_sentencepiece(tmp_path / "nowhere")
