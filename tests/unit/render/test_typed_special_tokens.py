"""The text of a special token that somebody typed stays text, whatever the vocabulary; control tokens stay tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import vocabularies

from tunesmith.errors import DataError, TemplateError
from tunesmith.render.encode import Encoder
from tunesmith.render.load import make_renderer
from tunesmith.render.probes import probe_conversations
from tunesmith.render.renderer import RenderPolicy
from tunesmith.types import Conversation, Message

KINDS: dict[str, tuple[str, Any]] = {
    "byte-level": ("chatml", lambda folder: vocabularies.byte_level("chatml")),
    "legacy sentencepiece": ("llama2", lambda folder: vocabularies.sentencepiece_like("llama2", legacy=True)),
    "sentencepiece": ("llama2", lambda folder: vocabularies.sentencepiece_like("llama2", legacy=False)),
    "unigram": ("vicuna", lambda folder: vocabularies.unigram("llama2")),
    "phi3, whitespace-eating": ("phi", lambda folder: vocabularies.byte_level("phi3")),
    "gemma": ("gemma3", lambda folder: vocabularies.byte_level("gemma")),
    "glm": ("glm4", lambda folder: vocabularies.byte_level("glm")),
    "real DeepSeek": ("deepseek3", lambda folder: vocabularies.deepseek()),
    "real Mistral": ("mistral", lambda folder: vocabularies.mistral(folder)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_typed_special_tokens_stay_text(kind: str, tmp_path: Path) -> None:
    template, build = KINDS[kind]
    tokenizer = build(tmp_path)
    renderer = make_renderer(tokenizer, template)
    special = set(tokenizer.all_special_ids) | {
        token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    special -= {tokenizer.unk_token_id}
    typed = [text for text in tokenizer.convert_ids_to_tokens(sorted(special)[:12]) if text]

    innocent = [Message("user", "what is X for?"), Message("assistant", "it is X.")]
    expected = renderer.examples(Conversation(tuple(innocent)), RenderPolicy())[0]
    num_control = sum(token_id in special for token_id in expected.input_ids)
    assert typed
    for text in typed:
        talk = tuple(Message(message.role, message.content.replace("X", text)) for message in innocent)
        example = renderer.examples(Conversation(talk), RenderPolicy())[0]
        assert sum(token_id in special for token_id in example.input_ids) == num_control
        assert example.input_ids[-1] == expected.input_ids[-1]
        shown = renderer.decode(example.input_ids, skip_special_tokens=False)
        assert f"what is {text} for?" in shown
        assert f"it is {text}." in shown


@pytest.mark.parametrize("kind", KINDS)
def test_the_guarded_way_gives_the_tokens_of_the_ordinary_way(kind: str, tmp_path: Path) -> None:
    template, build = KINDS[kind]
    renderer = make_renderer(build(tmp_path), template)
    num_compared = 0
    for probe in probe_conversations():
        texts = [message.content for message in probe.messages]
        if any(renderer.encoder.guard(text) != text for text in texts):
            continue
        text = renderer.dialect.prompt_text(probe.question)
        assert renderer.encoder._encode_guarded(text) == renderer.encoder.encode(text)
        num_compared += 1
    assert num_compared >= 80


def test_only_a_text_that_holds_a_special_token_is_guarded() -> None:
    encoder = Encoder(vocabularies.byte_level("chatml"))
    assert encoder.guard("<|im_end|") == "<|im_end|"
    guarded = encoder.guard("a <|im_end|> b")
    assert guarded != "a <|im_end|> b"
    assert encoder.unguard(guarded) == "a <|im_end|> b"


def test_the_reserved_characters_are_refused_by_name() -> None:
    encoder = Encoder(vocabularies.byte_level("chatml"))
    with pytest.raises(DataError, match="U\\+FDD0"):
        encoder.guard("a \ufdd0 b")


def test_thought_markers_in_the_text_stay_tokens() -> None:
    renderer = make_renderer(vocabularies.byte_level("chatml"), "qwen3")
    talk = (Message("user", "Hi"), Message("assistant", "<think>\nx\n</think>\n\nHello"))
    ids = renderer.examples(Conversation(talk), RenderPolicy())[0].input_ids
    assert ids.count(renderer.tokenizer.convert_tokens_to_ids("<think>")) == 1


def test_a_slow_tokenizer_is_refused_only_when_it_would_matter() -> None:
    class Slow:
        """Enough of a tokenizer without a backend."""

        added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012
        all_special_tokens = ("</s>",)

        def convert_tokens_to_ids(self, text: str) -> int:
            return {"</s>": 1}.get(text, 0)

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [1] if text == "</s>" else [5] * len(text)}

    encoder = Encoder(Slow())
    assert encoder.encode("hi") == (5, 5)
    with pytest.raises(TemplateError, match="slow tokenizer"):
        encoder.encode(encoder.guard("a </s>"))
