"""What a person does to a conversation: take a turn back, answer anew, change a text, answer a tool call.

Pure functions over the tuple of turns, so that terminal and web page do the same and can be tested without either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.errors import ConfigError
from tunesmith.types import Message, ToolCall

Turns = tuple[Message, ...]


def with_system(turns: Sequence[Message], text: str) -> Turns:
    """The turns with `text` as their system text; without one when it is blank."""
    rest = tuple(turn for turn in turns if turn.role != "system")
    return (Message("system", text), *rest) if text.strip() else rest


def system_text(turns: Sequence[Message]) -> str:
    """The system text; empty when there is none."""
    return next((turn.content for turn in turns if turn.role == "system"), "")


def system_only(turns: Sequence[Message]) -> Turns:
    """The turns of a conversation that begins anew."""
    return tuple(turn for turn in turns if turn.role == "system")


def without_last_question(turns: Sequence[Message]) -> tuple[Turns, str]:
    """The turns before the last thing that the user said, and its text.

    Raises: ConfigError when the user has said nothing yet.
    """
    for index in reversed(range(len(turns))):
        if turns[index].role == "user":
            return tuple(turns[:index]), turns[index].content
    raise ConfigError("there is nothing to take back", why="the conversation holds no question", fix="Ask first.")


def up_to_question(turns: Sequence[Message], index: int | None = None) -> Turns:
    """The turns that the answer at `index` (None: the last one) was an answer to.

    Raises: ConfigError when there is no answer.
    """
    places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if not places or (index is not None and index not in places):
        raise ConfigError("there is no answer to do anew", fix="Ask first.")
    return tuple(turns[: places[-1] if index is None else index])


def edited(turns: Sequence[Message], index: int, text: str) -> Turns:
    """The turns with another text in turn `index`.

    An answer's later turns stay. Behind a question or a tool's result everything goes: it was said to another text.
    An answer that is rewritten by hand is plain text: its calls go, its thought stays.
    """
    turn = turns[index]
    if turn.role == "assistant":
        written = replace(turn, content=text, tool_calls=())
        return (*turns[:index], written, *_after_calls(turns, index))
    return (*turns[:index], replace(turn, content=text))


def _after_calls(turns: Sequence[Message], index: int) -> Turns:
    """What follows an answer, unless it hangs on calls that the answer no longer has."""
    return () if turns[index].tool_calls else tuple(turns[index + 1 :])


def open_calls(turns: Sequence[Message]) -> tuple[ToolCall, ...]:
    """The calls of the last answer that no tool has answered yet, in their order."""
    for num_results, turn in enumerate(reversed(turns)):
        if turn.role != "tool":
            return turn.tool_calls[num_results:] if turn.role == "assistant" else ()
    return ()
