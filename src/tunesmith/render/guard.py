"""Marks the special tokens that people typed, in everything of a conversation that is rendered.

The words of turns are marked as they stand. The arguments of a call and the schema of a tool are JSON, in which the
characters of a token may be written as escapes; so their values are marked after reading, not their text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.types import Message, ToolCall, ToolSpec

Guard = Callable[[str], str]
"""Text with typed special tokens marked."""


def guarded_messages(messages: Sequence[Message], guard: Guard) -> list[Message]:
    """The messages with everything that somebody wrote marked. Raises: what `guard` raises."""
    return [
        replace(
            message,
            content=guard(message.content),
            reasoning=None if message.reasoning is None else guard(message.reasoning),
            tool_calls=tuple(_guarded_call(call, guard) for call in message.tool_calls),
        )
        for message in messages
    ]


def guarded_tools(tools: Sequence[ToolSpec], guard: Guard) -> tuple[ToolSpec, ...]:
    """The tools with names, descriptions and schemas marked. Raises: what `guard` raises."""
    return tuple(
        ToolSpec(guard(tool.name), guard(tool.description), _guarded_value(tool.parameters, guard)) for tool in tools
    )


def _guarded_call(call: ToolCall, guard: Guard) -> ToolCall:
    try:
        arguments = json.dumps(_guarded_value(json.loads(call.arguments or "{}"), guard), ensure_ascii=False)
    except (ValueError, RecursionError):  # the tool format says what is wrong with it
        arguments = guard(call.arguments)
    return ToolCall(guard(call.name), arguments, guard(call.id))


def _guarded_value(value: Any, guard: Guard) -> Any:
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, Mapping):
        return {guard(str(key)): _guarded_value(item, guard) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded_value(item, guard) for item in value]
    return value
