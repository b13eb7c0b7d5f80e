"""What is trained: answers and their end by default; prompts, last answers or weighted turns when asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import vocabularies

from tunesmith.errors import DataError
from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.types import Conversation, Message, RenderedExample, RowRef

TALK = (Message("user", "Q1"), Message("assistant", "A1"), Message("user", "Q2"), Message("assistant", "A2"))
REF = RowRef("rows", "rows.json", 3, 2)


def trained_text(renderer: Renderer, example: RenderedExample) -> list[str]:
    """The runs of tokens with a weight, as text."""
    runs: list[list[int]] = []
    previous = 0.0
    for token_id, weight in zip(example.input_ids, example.weights, strict=True):
        if weight and not previous:
            runs.append([])
        if weight:
            runs[-1].append(token_id)
        previous = weight
    return [renderer.decode(run, skip_special_tokens=False) for run in runs]


def test_answers_and_their_end_are_trained_and_the_newline_after_it_is_not(
    chatml_renderer: Callable[..., Renderer],
) -> None:
    renderer = chatml_renderer()
    [example] = renderer.examples(Conversation(TALK, ref=REF), RenderPolicy())
    assert trained_text(renderer, example) == ["A1<|im_end|>", "A2<|im_end|>"]
    assert renderer.decode(example.input_ids, skip_special_tokens=False).endswith("A2<|im_end|>")
    assert (example.num_turns, example.num_stops, example.ref) == (2, 2, REF)
    assert [(span.role, span.trained) for span in example.spans] == [
        ("user", False), ("assistant", True), ("user", False), ("assistant", True),
    ]  # fmt: skip


def test_mask_history_leaves_only_the_last_answer(chatml_renderer: Callable[..., Renderer]) -> None:
    renderer = chatml_renderer()
    [example] = renderer.examples(Conversation(TALK), RenderPolicy(mask_history=True))
    assert trained_text(renderer, example) == ["A2<|im_end|>"]
    assert (example.num_turns, example.num_stops) == (1, 1)


def test_train_on_prompt_trains_everything(chatml_renderer: Callable[..., Renderer]) -> None:
    [example] = chatml_renderer().examples(Conversation(TALK), RenderPolicy(train_on_prompt=True))
    assert set(example.weights) == {1.0}


def test_a_turns_own_weight_is_honoured(chatml_renderer: Callable[..., Renderer]) -> None:
    renderer = chatml_renderer()
    talk = (TALK[0], Message("assistant", "A1", weight=0.0), TALK[2], Message("assistant", "A2", weight=0.5))
    [example] = renderer.examples(Conversation(talk), RenderPolicy())
    assert trained_text(renderer, example) == ["A2<|im_end|>"]
    assert set(example.weights) == {0.0, 0.5}
    assert example.num_turns == 1


def test_a_dialogue_without_anything_to_train_gives_no_example(chatml_renderer: Callable[..., Renderer]) -> None:
    talk = (TALK[0], Message("assistant", "A1", weight=0.0))
    assert chatml_renderer().examples(Conversation(talk), RenderPolicy()) == []


def test_glm_learns_to_stop_by_opening_the_next_turn() -> None:
    renderer = make_renderer(vocabularies.byte_level("glm"), "glm4")
    [example] = renderer.examples(Conversation(TALK), RenderPolicy())
    assert trained_text(renderer, example) == ["\nA1<|user|>", "\nA2<|user|>"]
    assert renderer.stop_texts == ("<|user|>", "<|observation|>", "<|endoftext|>")
    assert renderer.tokenizer.eos_token == "<|endoftext|>"


def test_a_template_without_an_end_counts_no_stops_and_says_so(chatml_renderer: Callable[..., Renderer]) -> None:
    renderer = chatml_renderer("empty")
    [example] = renderer.examples(Conversation(TALK), RenderPolicy())
    assert (example.num_turns, example.num_stops) == (2, 0)
    assert renderer.stop_ids == ()
    assert any("never stop" in note for note in renderer.notes)


def test_a_merge_across_the_border_of_prompt_and_answer_starts_the_answer_anew() -> None:
    """The answer begins with a newline, and the prompt ends with one: together they would be one token."""
    renderer = make_renderer(vocabularies.byte_level("chatml"), "alpaca")
    [example] = renderer.examples(Conversation((Message("user", "Q"), Message("assistant", "\nA"))), RenderPolicy())
    prompt = renderer.prompt([Message("user", "Q")])
    whole = renderer.encoder.encode(renderer.prompt_text([Message("user", "Q")]) + "\nA<|endoftext|>")
    assert whole[: len(prompt)] != prompt
    assert example.input_ids[: len(prompt)] == prompt
    assert trained_text(renderer, example) == ["\nA<|endoftext|>"]


def test_a_merge_across_the_border_of_turns_makes_several_examples() -> None:
    renderer = make_renderer(vocabularies.byte_level("chatml"), "alpaca")
    talk = (Message("user", "Q"), Message("assistant", "\nA"), Message("user", "Q2"), Message("assistant", "B"))
    examples = renderer.examples(Conversation(talk), RenderPolicy())
    assert [trained_text(renderer, example) for example in examples] == [["\nA<|endoftext|>"], ["B<|endoftext|>"]]
    assert renderer.prompt(talk[:3]) == examples[1].input_ids[: len(renderer.prompt(talk[:3]))]


@pytest.mark.parametrize("messages", [(), TALK[:1], TALK[:3]])
def test_a_conversation_without_a_last_answer_is_refused(
    chatml_renderer: Callable[..., Renderer], messages: tuple[Message, ...]
) -> None:
    with pytest.raises(DataError, match="does not end with an answer"):
        chatml_renderer().examples(Conversation(messages), RenderPolicy())


def test_a_system_text_in_the_middle_is_refused_where_it_would_be_merged() -> None:
    renderer = make_renderer(vocabularies.byte_level("gemma"), "gemma3")
    with pytest.raises(DataError, match="not at the start"):
        renderer.prompt([Message("user", "Q"), Message("system", "S"), Message("user", "Q")])
