"""Conversations as files: one line of JSON each, OpenAI messages, as the data layer reads them for training.

`{"messages": [{"role", "content", "reasoning_content"?, "tool_calls"?}], "tools"?: [...]}`. What is loaded passes
through the data layer's own reader, so that a saved conversation is a training row and the reverse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.data.formats import openai
from tunesmith.data.formats.tools import parse_tools
from tunesmith.data.rows import RowError
from tunesmith.data.schema import Columns, DatasetEntry
from tunesmith.errors import ConfigError
from tunesmith.types import Conversation, Message, ToolSpec

_COLUMNS = Columns(messages="messages", tools="tools")


def message_row(message: Message) -> dict[str, Any]:
    """A turn as an OpenAI message."""
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        row["reasoning_content"] = message.reasoning
    if message.tool_calls:
        row["tool_calls"] = [
            {
                "id": call.id or f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(message.tool_calls)
        ]
    return row


def tool_row(tool: ToolSpec) -> dict[str, Any]:
    """A tool in the envelope of the OpenAI API."""
    parameters = dict(tool.parameters)
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def conversation_row(messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> dict[str, Any]:
    """A conversation as one row."""
    row: dict[str, Any] = {"messages": [message_row(message) for message in messages]}
    if tools:
        row["tools"] = [tool_row(tool) for tool in tools]
    return row


def read_row(row: Mapping[str, Any], where: str) -> Conversation:
    """The conversation of a row; its last turn may be a question. Raises: ConfigError when it is none."""
    entry = DatasetEntry(name=where, where=where, formatting="openai", columns=_COLUMNS, tags=openai.LAYOUT.tags)
    try:
        return openai.convert(row, entry, "either")
    except RowError as error:
        raise ConfigError(
            f"{where} holds no conversation", where=error.field, why=error.why, fix=error.fix or _FIX
        ) from None


_FIX = 'One line: {"messages": [{"role": "user", "content": "..."}, ...]}'


def read_tools(text: str, where: str) -> tuple[ToolSpec, ...]:
    """Tools from JSON text, bare or in OpenAI's envelope; () for blank text. Raises: ConfigError otherwise."""
    try:
        return parse_tools({"tools": text}, "tools")
    except RowError as error:
        field = error.field.removeprefix("tools")
        raise ConfigError(f"{where}{field} {error.why}", fix=error.fix) from None


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line to a JSON lines file. Raises: ConfigError when it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}", why=error.strerror or str(error), fix="Name another file.") from error


def load_last(path: Path) -> Conversation:
    """The newest conversation of a file: its last line. Raises: ConfigError when there is none."""
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"{path} is empty", fix=_FIX)
    return read_row(read_json(lines[-1], f"{path}:{len(lines)}"), str(path))


def read_text(path: Path) -> str:
    """The text of a file that the user named. Raises: ConfigError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8", fix="Convert it to UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}", why=error.strerror or str(error), fix="Name a file.") from error


def read_json(text: str, where: str) -> dict[str, Any]:
    """The JSON object in a text. Raises: ConfigError when there is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is not JSON", why=f"{error.msg} at character {error.pos}", fix=_FIX) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is no JSON object", fix=_FIX)
    return value
