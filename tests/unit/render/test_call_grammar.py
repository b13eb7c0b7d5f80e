"""The grammar of calls accepts what training writes and refuses what is no call. The judge is llguidance."""

from __future__ import annotations

import llguidance
import llguidance.hf
import pytest
import tool_talks
import vocabularies
from tool_talks import OSLO, ROME, TOOLS, call, calling

from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer
from tunesmith.types import Message

TEMPLATES = {
    "qwen": "chatml",
    "qwen3": "chatml",
    "chatml": "chatml",
    "default": "chatml",
    "llama2": "llama2",
    "llama3": "llama3",
    "glm4": "glm",
    "gemma3": "gemma",
    "mistral": "llama2",
}
SCHEMED = (
    OSLO,
    ROME,
    call("now"),
    call("search_notes", query='say "hi"\n', tags=["a", "天"], options={"k": [1, None]}),
)


def made(template: str) -> Renderer:
    return make_renderer(vocabularies.byte_level(TEMPLATES[template]), template)


def accepts(renderer: Renderer, grammar: str, text: str) -> bool:
    tokenizer = llguidance.hf.from_tokenizer(renderer.tokenizer)
    matcher = llguidance.LLMatcher(tokenizer, grammar)
    assert not matcher.is_error(), matcher.get_error()
    ids = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def written(renderer: Renderer, answer: Message) -> str:
    text = renderer.dialect.answer_text((tool_talks.QUESTION,), answer, TOOLS)
    return text.taught.removesuffix(renderer.dialect.call_end_text)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("required", [True, False])
def test_what_training_writes_is_accepted(template: str, required: bool) -> None:
    renderer = made(template)
    grammar = renderer.call_grammar(TOOLS, None, required, True)
    assert grammar is not None
    for made_call in SCHEMED:
        assert accepts(renderer, grammar, written(renderer, calling(made_call)))
    assert accepts(renderer, grammar, written(renderer, calling(*SCHEMED)))


@pytest.mark.parametrize("template", TEMPLATES)
def test_wrong_names_and_wrong_arguments_are_refused(template: str) -> None:
    renderer = made(template)
    grammar = renderer.call_grammar(TOOLS, ["get_weather"], True, True)
    assert grammar is not None
    assert accepts(renderer, grammar, written(renderer, calling(OSLO)))
    for wrong in (call("now"), call("get_weather"), call("get_weather", city=3), call("nobody", city="Oslo")):
        assert not accepts(renderer, grammar, written(renderer, calling(wrong)))


@pytest.mark.parametrize("template", TEMPLATES)
def test_words_are_accepted_only_where_no_call_is_required(template: str) -> None:
    renderer = made(template)
    required = renderer.call_grammar(TOOLS, None, True, True)
    free = renderer.call_grammar(TOOLS, None, False, True)
    assert required is not None
    assert free is not None
    words = written(renderer, Message("assistant", "It is sunny.")).removesuffix(renderer.dialect.end_text)
    assert not accepts(renderer, required, words)
    assert accepts(renderer, free, words)
    assert accepts(renderer, free, written(renderer, calling(OSLO, words="Let me look.")))


@pytest.mark.parametrize("template", TEMPLATES)
def test_one_call_where_several_are_not_wanted(template: str) -> None:
    renderer = made(template)
    grammar = renderer.call_grammar(TOOLS, None, True, False)
    assert grammar is not None
    assert accepts(renderer, grammar, written(renderer, calling(OSLO)))
    assert not accepts(renderer, grammar, written(renderer, calling(OSLO, ROME)))


def test_a_thought_may_come_before_a_required_call() -> None:
    renderer = made("qwen3")
    grammar = renderer.call_grammar(TOOLS, None, True, True)
    assert grammar is not None
    call_text = written(renderer, calling(OSLO, thought="Hm."))
    assert call_text.startswith("<think>\nHm.\n</think>\n\n<tool_call>")
    assert accepts(renderer, grammar, call_text)
    assert not accepts(renderer, grammar, "<think>\nHm.\n</think>\n\nSunny.")


def test_no_function_that_is_wanted_gives_no_grammar() -> None:
    assert made("qwen").call_grammar(TOOLS, ["nobody"], True, True) is None
