"""Thoughts: on, off and as the rows have them; in the history, in the prompt, in the answer."""

from __future__ import annotations

import pytest
import vocabularies

from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.types import Conversation, Message

HEADER = "<|im_start|>assistant\n"
EMPTY = "<think>\n\n</think>\n\n"
QUESTION = Message("user", "Q")
WITH = (QUESTION, Message("assistant", "A", reasoning="T"))
WITHOUT = (QUESTION, Message("assistant", "A"))


def renderer(thinking: bool | None, preserve: bool = False) -> Renderer:
    return make_renderer(vocabularies.byte_level("chatml"), "qwen3", RenderSettings(None, thinking, preserve))


def split(made: Renderer, messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    """(untrained text, trained text) of each example, the runs of each joined with '|'."""
    shown = []
    for example in made.examples(Conversation(messages), RenderPolicy()):
        runs: dict[bool, list[str]] = {False: [], True: []}
        for span in example.spans:
            runs[span.trained].append(made.decode(example.input_ids[span.start : span.end], skip_special_tokens=False))
        shown.append(("|".join(runs[False]), "|".join(runs[True])))
    return shown


@pytest.mark.parametrize(
    ("thinking", "messages", "context", "trained"),
    [
        (True, WITH, HEADER, "<think>\nT\n</think>\n\nA<|im_end|>"),
        (True, WITHOUT, HEADER, f"{EMPTY}A<|im_end|>"),
        (None, WITH, HEADER, "<think>\nT\n</think>\n\nA<|im_end|>"),
        (None, WITHOUT, f"{HEADER}|{EMPTY}", "A<|im_end|>"),
        (False, WITH, HEADER + EMPTY, "A<|im_end|>"),
        (False, WITHOUT, HEADER + EMPTY, "A<|im_end|>"),
    ],
)
def test_what_of_a_thought_is_trained(
    thinking: bool | None, messages: tuple[Message, ...], context: str, trained: str
) -> None:
    [(untrained, taught)] = split(renderer(thinking), messages)
    assert untrained == f"<|im_start|>user\nQ<|im_end|>\n{context}"
    assert taught == trained


@pytest.mark.parametrize(("thinking", "end"), [(True, HEADER), (None, HEADER), (False, HEADER + EMPTY)])
def test_the_generation_prompt_holds_an_empty_thought_only_when_thinking_is_off(
    thinking: bool | None, end: str
) -> None:
    assert renderer(thinking).prompt_text([QUESTION]).endswith(f"<|im_end|>\n{end}")


@pytest.mark.parametrize("thinking", [True, False, None])
def test_thoughts_leave_the_history_so_a_dialogue_becomes_one_example_per_answer(thinking: bool | None) -> None:
    made = renderer(thinking)
    examples = split(made, (*WITH, *WITHOUT))
    assert len(examples) == 2
    assert "T\n" not in examples[1][0]
    assert examples[1][0].count("A<|im_end|>") == 1
    assert any("preserve_thinking" in note for note in made.notes)


@pytest.mark.parametrize("thinking", [True, False, None])
def test_preserved_thoughts_keep_a_dialogue_whole(thinking: bool | None) -> None:
    examples = split(renderer(thinking, preserve=True), (*WITH, *WITHOUT))
    assert len(examples) == 1


def test_a_thought_in_the_text_is_the_same_as_a_thought_apart() -> None:
    made = renderer(True)
    inline = (QUESTION, Message("assistant", "<think>\nT\n</think>\n\nA"))
    assert split(made, inline) == split(made, WITH)


def test_leaving_thoughts_out_is_said() -> None:
    assert any("left out" in note for note in renderer(False).notes)
    assert not any("left out" in note for note in renderer(True).notes)
    tokenizer = vocabularies.byte_level("chatml")
    tokenizer.chat_template = vocabularies.own_jinja("qwen3")
    own = make_renderer(tokenizer, None, RenderSettings(enable_thinking=False))
    assert any("left out" in note for note in own.notes)
    assert split(own, WITH) == split(renderer(False), WITH)


def test_a_template_without_thoughts_writes_them_in_front_of_the_answer() -> None:
    made = make_renderer(vocabularies.byte_level("chatml"), "qwen")
    [(_, trained)] = split(made, WITH)
    assert trained == "<think>\nT\n</think>\n\nA<|im_end|>"


def test_a_generated_thought_is_set_apart() -> None:
    assert renderer(True).parse("<think>\nT\n</think>\n\nA") == Message("assistant", "A", reasoning="T")
    assert renderer(True).parse("A") == Message("assistant", "A")
