"""OpenAI messages: role and content, tool calls, tool results, per-message weight.

Read as they stand: the content may be a list of text parts (joined), an assistant may carry
`tool_calls`, reasoning text stands in `reasoning_content`, and `weight` 0 or 1 says whether an assistant
message is trained on. Nothing is added to the system text (the public tool adds a sentence to it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import sharegpt
from tunesmith.data.formats.base import (
    Fields,
    Format,
    check_given_columns,
    check_turns,
    columns_in,
    notes_on_unread,
    require_column,
    text_of,
)
from tunesmith.data.formats.tools import parse_calls, parse_tools
from tunesmith.data.rows import RowError, type_name
from tunesmith.data.schema import Columns, DatasetEntry, Layout, Tags
from tunesmith.types import Conversation, Message, Role

LAYOUT = Layout(
    Columns(messages="messages"),
    Tags("role", "content", "user", "assistant", "tool", "function", "system"),
)


def recognise(name: str, rows: Sequence[Fields]) -> DatasetEntry | None:
    """An entry for rows whose `messages` are role/content messages of user and assistant."""
    for column in ("messages", "conversations", "conversation"):
        messages = [message for row in rows for message in _mappings(row.get(column))]
        roles = {message.get("role") for message in messages}
        if {"user", "assistant"} <= roles:
            tools = "tools" if "tools" in columns_in(rows) else None
            columns = Columns(messages=column, tools=tools)
            return DatasetEntry(name=name, where=name, formatting="openai", columns=columns, tags=LAYOUT.tags)
    return None


def check(entry: DatasetEntry, rows: Sequence[Fields]) -> list[str]:
    """Notes on what is not read. Raises: DataError when the columns or tags do not fit these rows."""
    column = require_column(entry, "messages", rows)
    absent = check_given_columns(entry, rows)
    sharegpt.check_tags(entry, [message for row in rows for message in _mappings(row.get(column))])
    return absent + notes_on_unread(entry, rows, ("system", "tools", "images", "videos", "audios"))


def convert(row: Fields, entry: DatasetEntry) -> Conversation:
    """One row of OpenAI messages as a conversation. Raises: RowError when a message is unusable or out of place."""
    column = str(entry.columns.messages)
    raw = row.get(column)
    if not isinstance(raw, list):
        why = "is missing" if column not in row else f"is {type_name(raw)}, expected a list of messages"
        raise RowError(column, why, "give the row its list of messages")
    messages = [_message(item, entry.tags, f"{column}[{index}]") for index, item in enumerate(raw)]
    system = text_of(row, entry.columns.system)
    opening = (Message("system", system),) if system else ()
    if messages and messages[0].role == "system":
        opening, messages = (messages[0],), messages[1:]
    check_turns(messages, column)
    return Conversation((*opening, *messages), parse_tools(row, entry.columns.tools))


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


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


FORMAT = Format(LAYOUT, recognise, check, convert)
