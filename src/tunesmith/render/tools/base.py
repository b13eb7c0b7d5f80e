"""What a tool format is: the text that tells a model its tools, the text of its calls, and the way back.

A format knows no turns and no tokens. `match` is what reading rests on: given a text that begins with one of the
openers, it says which calls stand there, that they do not, or that more text is needed to tell. A verdict on a text
holds for whatever follows it, so that an answer reads the same in one piece and token by token.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from tunesmith.errors import DataError
from tunesmith.render.tools.grammar import CallRules
from tunesmith.types import Message, ToolCall, ToolSpec

Place = Literal["system_end", "system_start", "system_turn", "first_user", "last_user"]
"""Where the tools are told: at the end or the start of the system text, in a system turn of their own in front of all
others, in front of the first user's words, or in front of the last user's turn."""

Functions = Mapping[str, Mapping[str, Any]]
"""The functions that may be called: name, and the schema of its parameters."""


@dataclass(frozen=True, slots=True)
class Found:
    """Calls, and how many characters they take."""

    length: int
    calls: tuple[ToolCall, ...]


Verdict = Found | Literal["more", "no"]
"""What stands at an opener: calls, not enough text to tell, or no call."""


class ToolFormat(ABC):
    """One way of writing tools and calls.

    Attributes:
        name: as in `tool_format`.
        place: where the tools are told.
        joint: what stands between the system text and the tools, where both stand in one turn.
        system_opening: text in front of the system text when there are tools.
        separator: what stands between an answer's words and its calls.
        openers: texts with which calls begin.
        line_openers: such texts that count only at the start of the answer, of a line, or right after a call.
        between: characters, besides whitespace, that may stand between two calls and mean nothing.
        markers: texts that many vocabularies hold as special tokens, and that reading must see.
        sources: texts by which a model's own Jinja template of this format is known: all of one entry.
    """

    name: ClassVar[str]
    place: ClassVar[Place] = "system_end"
    joint: ClassVar[str] = "\n\n"
    system_opening: ClassVar[str] = ""
    separator: ClassVar[str] = "\n"
    openers: ClassVar[tuple[str, ...]] = ()
    line_openers: ClassVar[tuple[str, ...]] = ()
    between: ClassVar[str] = ""
    markers: ClassVar[tuple[str, ...]] = ()
    sources: ClassVar[tuple[tuple[str, ...], ...]] = ()

    @abstractmethod
    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """The text that tells the model its tools."""

    @abstractmethod
    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """The calls of one answer, as the model writes them. Raises: DataError when they cannot be written."""

    @abstractmethod
    def match(self, text: str, functions: Functions, *, is_final: bool) -> Verdict:
        """What stands at the beginning of `text`, which begins with an opener.

        Args:
            text: what is there so far.
            functions: what may be called; a call of another function is no call.
            is_final: nothing follows.
        """

    def find_openers(self, functions: Functions) -> tuple[str, ...]:
        """The texts with which calls of these functions begin, wherever they stand."""
        return self.openers

    def find_line_openers(self, functions: Functions) -> tuple[str, ...]:
        """The texts with which calls of these functions begin where a line begins."""
        return self.line_openers

    def result_text(self, result: str, call: ToolCall | None) -> str:
        """The result of `call` as it stands in the turn of the results; None where it belongs to no call."""
        return result

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules | None:
        """The form of calls of these functions, for grammars, several at once if `many`; None when there is none."""
        return None


def wrapped(tool: ToolSpec) -> dict[str, Any]:
    """A tool in the envelope of the OpenAI API."""
    return {"type": "function", "function": bare(tool)}


def bare(tool: ToolSpec) -> dict[str, Any]:
    """A tool as a JSON-able mapping, without the envelope."""
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON as chat templates write it: one space after commas and colons, letters of all scripts as they are."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """The arguments of a call as an object. Raises: DataError when they are no JSON object."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except json.JSONDecodeError as error:
        raise _bad_arguments(call, f"they are not valid JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _bad_arguments(call, "they are nested too deeply") from None
    if not isinstance(arguments, dict):
        raise _bad_arguments(call, "they are JSON, but not an object of names and values")
    return arguments


def _bad_arguments(call: ToolCall, why: str) -> DataError:
    shown = call.arguments if len(call.arguments) <= 60 else call.arguments[:60] + "…"
    return DataError(
        f"the arguments of a call of '{call.name}' cannot be written: {shown}",
        why=why,
        fix='write them as a JSON object, such as {"city": "Oslo"}',
    )


def read_json(text: str, start: int = 0) -> tuple[Any, int] | Literal["more", "no"]:
    """(value, end) of the JSON object or list at `start`; whether more text is needed, or there is none.

    Whether it is complete is told by its brackets, outside strings; then it is valid or it is not.
    """
    end = _json_end(text, start)
    if end is None:
        return "more"
    try:
        return json.loads(text[start:end], parse_constant=_refuse_constant), end
    except (ValueError, RecursionError):
        return "no"


def _json_end(text: str, start: int) -> int | None:
    depth, in_string, escaped = 0, False, False
    for index in range(start, len(text)):
        letter = text[index]
        if in_string:
            in_string = escaped or letter != '"'
            escaped = not escaped and letter == "\\"
        elif letter == '"':
            in_string = True
        elif letter in "{[":
            depth += 1
        elif letter in "}]":
            depth -= 1
            if depth <= 0:
                return index + 1
    return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_CALL_KEYS = {"name", "arguments", "parameters", "id", "type"}


def call_of(value: Any, functions: Functions) -> ToolCall | None:
    """The call that a JSON value states; None when it is none, or one of a function that is not there."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or value["name"] not in functions:
        return None
    if not set(value) <= _CALL_KEYS or ("arguments" in value and "parameters" in value):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _object_in(arguments)
    if not isinstance(arguments, dict):
        return None
    return ToolCall(value["name"], json_text(arguments), str(value.get("id") or ""))


def _object_in(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def calls_of(value: Any, functions: Functions) -> tuple[ToolCall, ...]:
    """The calls that a JSON object or list of objects states; () when one of them is none."""
    calls = [call_of(item, functions) for item in (value if isinstance(value, list) else [value])]
    return tuple(call for call in calls if call is not None) if all(calls) else ()


def joined_system(messages: Sequence[Message], text: str, form: ToolFormat) -> Sequence[Message]:
    """The messages with `text`, which tells the tools, in their system text; that is made where there is none."""
    if not messages or messages[0].role != "system":
        return [Message("system", text), *messages]
    words = messages[0].content
    parts = (text, words) if form.place == "system_start" else (words, text)
    return [replace(messages[0], content=form.joint.join(parts)), *messages[1:]]


def skip_space(text: str, start: int) -> int:
    """The first position from `start` on that holds no whitespace."""
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def read_calls(text: str, start: int, functions: Functions) -> Verdict:
    """The calls that stand as one JSON object or list at `start` or after whitespace there."""
    start = skip_space(text, start)
    if start == len(text):
        return "more"
    if text[start] not in "{[":
        return "no"
    value = read_json(text, start)
    if isinstance(value, str):
        return value
    calls = calls_of(value[0], functions)
    return Found(value[1], calls) if calls else "no"
