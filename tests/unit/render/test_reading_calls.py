"""What a template writes of calls is read back, whole or in pieces, and nothing that is no call is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
import tool_talks
import vocabularies
from tool_talks import TOOLS, calling

from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.reader import (
    AnswerReader,
    AnswerShape,
    CallDelta,
    ContentDelta,
    Delta,
    ReasoningDelta,
    join_deltas,
)
from tunesmith.render.renderer import Renderer
from tunesmith.render.tools import FORMATS
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


def made(template: str, **settings: object) -> Renderer:
    return make_renderer(
        vocabularies.byte_level(TEMPLATES[template]),
        template,
        RenderSettings(**settings),  # type: ignore[arg-type]
    )


def written(renderer: Renderer, answer: Message) -> str:
    """What the model would write for `answer`, without the token that ends it."""
    text = renderer.dialect.answer_text((tool_talks.QUESTION,), answer, TOOLS)
    return (text.silent + text.taught).removesuffix(
        renderer.dialect.call_end_text if answer.tool_calls else renderer.dialect.end_text
    )


def in_pieces(reader: AnswerReader, pieces: Sequence[str]) -> list[Delta]:
    return [delta for piece in pieces for delta in reader.feed(piece)] + reader.finish()


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_written_of_a_call_is_read_back(template: str) -> None:
    renderer = made(template)
    num_read = 0
    for answer in tool_talks.random_answers(7, 200):
        text = written(renderer, answer)
        assert renderer.parse(text, TOOLS) == answer, text
        num_read += 1
    assert num_read == 200


def same(left: Message, right: Message) -> bool:
    """Equal, but for the order of a call's arguments, which Gemma 4's format sorts."""
    arguments = [[json.loads(call.arguments) for call in side.tool_calls] for side in (left, right)]
    names = [[call.name for call in side.tool_calls] for side in (left, right)]
    return left.content == right.content and arguments[0] == arguments[1] and names[0] == names[1]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_what_it_writes(name: str) -> None:
    renderer = made("chatml", tool_format=name)
    num_read = 0
    for answer in tool_talks.typed_answers(5, 150):
        text = written(renderer, answer)
        assert same(renderer.parse(text, TOOLS), answer), text
        num_read += len(answer.tool_calls)
    assert num_read >= 250


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_pieces_as_it_reads_the_whole(name: str) -> None:
    renderer = made("chatml", tool_format=name)
    texts = [written(renderer, answer) for answer in tool_talks.typed_answers(9, 6)]
    opened = [text[: len(text) * 2 // 3] for text in texts]
    for text in (*texts, *opened, *(text + ", and so on\n" + text for text in opened)):
        whole = renderer.parse(text, TOOLS)
        for cut in range(0, len(text) + 1, 3):
            assert join_deltas(in_pieces(renderer.reader(TOOLS), (text[:cut], text[cut:]))) == whole, (text, cut)
        assert join_deltas(in_pieces(renderer.reader(TOOLS), text)) == whole


@pytest.mark.parametrize("name", FORMATS)
def test_a_function_that_is_not_there_is_called_by_no_format(name: str) -> None:
    renderer = made("chatml", tool_format=name)
    text = written(renderer, calling(tool_talks.call("nobody", city="Oslo"), words="Hm."))
    assert renderer.parse(text, TOOLS) == Message("assistant", text)
    assert in_pieces(renderer.reader(TOOLS), text) != []


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_answer_in_pieces_is_the_answer_in_one(template: str) -> None:
    renderer = made(template)
    source = random.Random(3)
    broken = ["<tool_call>", "<tool_call>\n{", "a\n<tool_call>\nx</tool_call> b", "Action: now\n", "Action: no", "\n\n"]
    broken += [
        "Words.\nnow\n{}",
        "Words. now\n{}",
        "a\n\nAction: now\nAction Input: {}\n",
        'x\n{"name": "now", "parameters": {}} y',
    ]
    texts = [written(renderer, answer) for answer in tool_talks.random_answers(11, 7)]
    texts += [text + ending for text in texts[:4] for ending in ("", "\n", " and more", text[:25])] + broken
    for text in texts:
        whole = renderer.parse(text, TOOLS)
        for cut in range(len(text) + 1):
            assert join_deltas(in_pieces(renderer.reader(TOOLS), (text[:cut], text[cut:]))) == whole, (text, cut)
        assert join_deltas(in_pieces(renderer.reader(TOOLS), text)) == whole
        sizes = [source.randrange(1, 6) for _ in text]
        pieces = [text[sum(sizes[:index]) : sum(sizes[: index + 1])] for index in range(len(sizes))]
        assert join_deltas(in_pieces(renderer.reader(TOOLS), pieces)) == whole


def test_half_a_marker_is_never_shown() -> None:
    reader = made("qwen").reader(TOOLS)
    text = 'I look.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    shown = [delta for letter in text for delta in reader.feed(letter)] + reader.finish()
    assert "".join(delta.text for delta in shown if isinstance(delta, ContentDelta)) == "I look."
    assert [delta for delta in shown if not isinstance(delta, ContentDelta)] == [CallDelta(0, "now", "{}")]


def test_words_are_shown_as_they_come() -> None:
    reader = made("qwen").reader(TOOLS)
    assert reader.feed("It is 3 <") == [ContentDelta("It is 3 ")]
    assert reader.feed(" 5, I") == [ContentDelta("< 5, I")]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "now", "arguments": {}\n</tool_call>',
        '<tool_call>\n{"name": "now", "arguments": [1]}\n</tool_call>',
        '<tool_call>\n{"name": "now", "arguments": {"a": NaN}}\n</tool_call>',
        '<tool_call>\n{"name": "now", "arguments": {}} and\n</tool_call>',
        "<tool_call>\nnow()\n</tool_call> after",
        '<tool_call>\n{"name": "now"',
        "<tool_call>" * 5,
        "\n<tool_call>\n" + "[" * 3000 + "]" * 3000,
    ],
)
def test_what_is_no_valid_call_stays_text(text: str) -> None:
    assert made("qwen").parse(text, TOOLS) == Message("assistant", text)


def test_a_valid_call_after_a_broken_one_is_read() -> None:
    renderer = made("qwen")
    broken = '<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>'
    text = broken + "\n" + written(renderer, calling(tool_talks.OSLO))
    assert renderer.parse(text, TOOLS) == calling(tool_talks.OSLO, words=broken)


def test_text_after_a_call_is_kept() -> None:
    renderer = made("qwen")
    text = written(renderer, calling(tool_talks.OSLO, words="First.")) + "\nThen this."
    assert renderer.parse(text, TOOLS) == calling(tool_talks.OSLO, words="First.\nThen this.")


def test_without_tools_nothing_is_a_call() -> None:
    text = written(made("qwen"), calling(tool_talks.OSLO))
    assert made("qwen").parse(text) == Message("assistant", text)


def test_a_thought_is_streamed_apart() -> None:
    reader = made("qwen3").reader(TOOLS)
    text = '<think>\nI must\nlook.\n</think>\n\nWait.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    deltas = [delta for letter in text for delta in reader.feed(letter)] + reader.finish()
    assert "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)) == "I must\nlook."
    assert join_deltas(deltas) == Message("assistant", "Wait.", "I must\nlook.", (tool_talks.call("now"),))


def test_a_thought_that_never_ends_is_a_thought() -> None:
    assert made("qwen3").parse("<think>\nhm, hm </thi") == Message("assistant", "", reasoning="hm, hm </thi")


def test_a_long_call_is_not_read_from_its_start_with_every_letter() -> None:
    form = made("qwen").dialect.shape.tools
    assert form is not None
    matched: list[int] = []

    class Counting(type(form)):  # type: ignore[misc]
        def match(self, text: str, functions: Any, *, is_final: bool) -> Any:
            matched.append(len(text))
            return super().match(text, functions, is_final=is_final)

    reader = AnswerReader(AnswerShape(tools=Counting()), TOOLS)
    long = calling(tool_talks.call("search_notes", query="word { " * 3000))
    assert join_deltas(in_pieces(reader, written(made("qwen"), long))) == long
    assert sum(matched) < 100 * len(long.tool_calls[0].arguments)
