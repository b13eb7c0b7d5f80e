"""Conversations with tools for the tests: all the shapes that tool turns take, and awkward arguments."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from tunesmith.types import Message, ToolCall, ToolSpec

WEATHER = ToolSpec(
    "get_weather",
    "The weather in a city. 查询天气",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "name of the city"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
    },
)
NOW = ToolSpec("now", "The time.", {"type": "object", "properties": {}})
SEARCH = ToolSpec(
    "search_notes",
    "Finds notes.",
    {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "tags"},
            "options": {"type": "object"},
            "limit": {"type": "number"},
            "exact": {"type": "boolean"},
        },
        "required": ["query"],
    },
)
TOOLS = (WEATHER, NOW, SEARCH)


def call(name: str, identifier: str = "", **arguments: Any) -> ToolCall:
    """A call with its arguments as JSON text in the usual layout."""
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False), identifier)


def calling(*calls: ToolCall, words: str = "", thought: str | None = None) -> Message:
    """An assistant turn that calls tools."""
    return Message("assistant", words, reasoning=thought, tool_calls=calls)


OSLO = call("get_weather", city="Oslo", unit="celsius")
ROME = call("get_weather", city="罗马")
SYSTEM = Message("system", "Answer briefly.")
QUESTION = Message("user", "How is the weather in Oslo?")
SUNNY = Message("tool", '{"sky": "sunny", "degrees": 21}')
RAINY = Message("tool", "rain\nall day ☔")
ANSWER = Message("assistant", "It is sunny.")

TALKS: dict[str, tuple[Message, ...]] = {
    "only told": (QUESTION, ANSWER),
    "told with system": (SYSTEM, QUESTION, ANSWER),
    "a call": (QUESTION, calling(OSLO)),
    "a call and its result": (SYSTEM, QUESTION, calling(OSLO), SUNNY, ANSWER),
    "words and a call": (QUESTION, calling(OSLO, words="Let me look."), SUNNY, ANSWER),
    "two calls at once": (QUESTION, calling(OSLO, ROME), SUNNY, RAINY, ANSWER),
    "calls one after the other": (QUESTION, calling(OSLO), SUNNY, calling(ROME), RAINY, ANSWER),
    "a later question": (
        QUESTION,
        calling(OSLO),
        SUNNY,
        ANSWER,
        Message("user", "And the time?"),
        calling(call("now")),
        Message("tool", "12:00"),
        Message("assistant", "Noon."),
    ),
}
THOUGHTS: dict[str, tuple[Message, ...]] = {
    "a thought before a call": (QUESTION, calling(OSLO, thought="I must look."), SUNNY, ANSWER),
    "thoughts on both sides": (
        QUESTION,
        calling(OSLO, thought="I must look."),
        SUNNY,
        Message("assistant", "Sunny.", reasoning="Good weather."),
        Message("user", "Thanks"),
        Message("assistant", "Welcome."),
    ),
}

_LETTERS = "abc XYZ 09 \n\t\"'\\/{}[]:,<>&é天気🌦️"
_TRICKY = (
    "</tool_call>", "{", '"}', "\\n", "a\n\nb", "'", '"""', "<tool_call>", "Action:", "\\u0041", "</parameter>x", "天",
)  # fmt: skip


def random_value(source: random.Random, depth: int = 0, tricky: bool = True) -> Any:
    """A JSON value."""
    kind = source.randrange(9 if depth < 2 else 6)
    if kind <= 2:
        text = "".join(source.choice(_LETTERS) for _ in range(source.randrange(12)))
        return text + (source.choice(_TRICKY) if tricky and source.random() < 0.3 else "")
    if kind <= 5:
        return source.choice([0, -7, 3.5, 12345678901, True, False, None])
    size = source.randrange(3)
    if kind == 6:
        return [random_value(source, depth + 1, tricky) for _ in range(size)]
    return {
        f"k{index}{source.choice(['', ' x', '键'])}": random_value(source, depth + 1, tricky) for index in range(size)
    }


def random_answers(seed: int, number: int, *, tricky: bool = True, many: bool = True) -> Iterator[Message]:
    """Answers that call tools: words or none in front, one call or several, any arguments."""
    source = random.Random(seed)
    words = ("", "", "Let me look.", "好的，我来查一下。", "Two\n\nparagraphs.", "It costs 3 < 5.")
    for _ in range(number):
        calls = []
        for _ in range(source.choice((1, 1, 2, 3)) if many else 1):
            names = source.sample(("query", "tags", "options", "extra", "größe"), source.randrange(4))
            arguments = {name: random_value(source, tricky=tricky) for name in names}
            calls.append(call(source.choice(TOOLS).name, **arguments))
        yield calling(*calls, words=source.choice(words))


def typed_answers(seed: int, number: int, *, many: bool = True) -> Iterator[Message]:
    """Answers that call a function with arguments of the types that its schema states, and texts that mark nothing."""
    source = random.Random(seed)
    for _ in range(number):
        calls = []
        for _ in range(source.choice((1, 2, 3)) if many else 1):
            given = {
                "query": "".join(source.choice(_LETTERS) for _ in range(source.randrange(20))),
                "tags": [random_value(source, 2, tricky=False) for _ in range(source.randrange(3))],
                "options": {f"k{index}": random_value(source, 1, tricky=False) for index in range(source.randrange(3))},
                "limit": source.choice((0, -3, 2.5)),
                "exact": source.choice((True, False)),
                "other": "no schema 天",
            }
            names = source.sample(list(given), source.randrange(len(given)))
            calls.append(call("search_notes", **{name: given[name] for name in names}))
        yield calling(*calls, words=source.choice(("", "Let me look.", "好的。\n\n1 < 2")))


def as_tool_rows(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The messages in the form that `apply_chat_template` takes."""
    rows = []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning is not None:
            row["reasoning_content"] = message.reasoning
        if message.tool_calls:
            row["tool_calls"] = [
                {"type": "function", "function": {"name": made.name, "arguments": json.loads(made.arguments)}}
                for made in message.tool_calls
            ]
        rows.append(row)
    return rows


def wrapped_tools() -> list[dict[str, Any]]:
    """The tools in the form that `apply_chat_template` takes."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in TOOLS
    ]
