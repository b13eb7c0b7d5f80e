"""OpenAI messages: role and content, tool calls, tool results, per-message weight.

Read as they stand: the content may be a list of text parts (joined), an assistant may carry
`tool_calls`, reasoning text stands in `reasoning_content`, and `weight` 0 or 1 says whether an assistant
message is trained on. Nothing is added to the system text (the public tool adds a sentence to it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import sharegpt
from tunesmith.data.formats.base import Ending, Fields, Format, check_given_columns, notes_on_unread
from tunesmith.data.formats.tools import parse_calls, parse_tools
from tunesmith.data.formats.turns import possible_columns, read_answer, read_turns, require_turns
from tunesmith.data.rows import RowError, type_name
from tunesmith.data.schema import Columns, DatasetEntry, Layout, Tags
from tunesmith.types import Conversation, Message, Role

LAYOUT = Layout(
    Columns(messages="messages"),
    Tags("role", "content", "user", "assistant", "tool", "function", "system"),
)


def recognise(name: str, rows: Sequence[Fields]) -> DatasetEntry | None:
    """An entry for rows of role/content messages, or of prompts and answers that are such messages."""
    for columns in possible_columns(rows):
        entry = DatasetEntry(name=name, where=name, formatting="openai", columns=columns, tags=LAYOUT.tags)
        roles = {message.get("role") for message in require_turns(entry, rows) if "content" in message}
        if {"user", "assistant"} <= roles or (columns.messages == "prompt" and "user" in roles):
            return entry
    return None


def check(entry: DatasetEntry, rows: Sequence[Fields]) -> list[str]:
    """Notes on what is not read. Raises: DataError when the columns or tags do not fit these rows."""
    messages = require_turns(entry, rows)
    absent = check_given_columns(entry, rows)
    sharegpt.check_tags(entry, messages)
    return absent + notes_on_unread(entry, rows, ("system", "tools", "images", "videos", "audios"))


def convert(row: Fields, entry: DatasetEntry, ending: Ending = "answer") -> Conversation:
    """The turns of one row of OpenAI messages. Raises: RowError when a message is unusable or out of place."""
    turns = read_turns(row, entry, ending, _message)
    return Conversation(tuple(turns), parse_tools(row, entry.columns.tools))


def answer(row: Fields, column: str, entry: DatasetEntry) -> Message:
    """The answer in a column of its own. Raises: RowError when there is none."""
    return read_answer(row, column, entry, _message)


def _message(raw: Any, tags: Tags, field: str) -> Message:
    if not isinstance(raw, Mapping):
        raise RowError(field, f"is {type_name(raw)}, expected a message", "write it as an object")
    role = _role(raw.get(tags.role_tag or ""), tags, f"{field}.{tags.role_tag}")
    content = _content(raw.get(tags.content_tag or ""), f"{field}.{tags.content_tag}")
    calls = raw.get("tool_calls")
    reasoning = raw.get("reasoning_content")
    if reasoning is not None and not isinstance(reasoning, str):
        raise RowError(f"{field}.reasoning_content", f"is {type_name(reasoning)}, expected text")
    return Message(
        role,
        content,
        reasoning=reasoning or None,
        tool_calls=parse_calls(calls, f"{field}.tool_calls") if calls else (),
        weight=_weight(raw.get("weight"), f"{field}.weight"),
    )


def _role(value: Any, tags: Tags, field: str) -> Role:
    roles: dict[str | None, Role] = {
        tags.function_tag: "assistant",
        tags.observation_tag: "tool",
        tags.system_tag: "system",
        "developer": "system",
        tags.assistant_tag: "assistant",
        tags.user_tag: "user",
    }
    if not isinstance(value, str) or value not in roles:
        known = ", ".join(f"'{name}'" for name in roles if name)
        raise RowError(field, f"is {value!r}, which is no known role", f"known: {known}")
    return roles[value]


def _content(value: Any, field: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise RowError(field, f"is {type_name(value)}, expected text", "write the value in double quotes")
    parts = []
    for index, part in enumerate(value):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type_name(part)
            raise RowError(f"{field}[{index}]", f"is a part of the kind {kind!r}; only text can be trained on yet")
        parts.append(part["text"])
    return "".join(parts)


def _weight(value: Any, field: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise RowError(field, f"is {value!r}, expected 0 or 1", "write 0 (do not train on it) or 1")
    return float(value)


FORMAT = Format(LAYOUT, recognise, check, convert, answer)
