"""The text of single tokens: joined it is the whole text, and a split character stands at its first token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import vocabularies

from tunesmith.render.load import make_renderer
from tunesmith.render.probes import probe_conversations
from tunesmith.render.renderer import RenderPolicy
from tunesmith.types import Conversation

KINDS: dict[str, tuple[str, Any]] = {
    "byte-level": ("chatml", lambda folder: vocabularies.byte_level("chatml")),
    "legacy sentencepiece": ("llama2", lambda folder: vocabularies.sentencepiece_like("llama2", legacy=True)),
    "sentencepiece": ("vicuna", lambda folder: vocabularies.sentencepiece_like("llama2", legacy=False)),
    "real Mistral": ("mistral", lambda folder: vocabularies.mistral(folder)),
    "real DeepSeek": ("deepseek3", lambda folder: vocabularies.deepseek()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_texts_of_the_tokens_join_to_the_whole_text(kind: str, tmp_path: Path) -> None:
    template, build = KINDS[kind]
    renderer = make_renderer(build(tmp_path), template)
    num_checked = 0
    for probe in probe_conversations():
        if probe.name.startswith("long"):
            continue
        for example in renderer.examples(Conversation(probe.messages), RenderPolicy()):
            texts = renderer.token_texts(example.input_ids)
            assert len(texts) == len(example.input_ids)
            assert "".join(texts) == renderer.decode(example.input_ids, skip_special_tokens=False)
            assert not any("\ufffd" in text for text in texts)
            num_checked += 1
    assert num_checked >= 90


def test_a_character_of_several_tokens_stands_at_the_first() -> None:
    renderer = make_renderer(vocabularies.byte_level("chatml"), "chatml")
    ids = renderer.encoder.encode("a𠮷b")
    texts = renderer.token_texts(ids)
    assert [text for text in texts if text] == ["a", "𠮷", "b"]
    assert texts[1] == "𠮷"
    assert len(ids) > 3


def test_bytes_that_are_no_text_do_not_swallow_what_follows() -> None:
    renderer = make_renderer(vocabularies.byte_level("chatml"), "chatml")
    first_byte = renderer.encoder.encode("𠮷")[0]
    texts = renderer.token_texts((first_byte, *renderer.encoder.encode("hello")))
    assert texts[0] == "\ufffd"
    assert "".join(texts[1:]) == "hello"
