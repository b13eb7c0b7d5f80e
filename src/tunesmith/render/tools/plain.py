"""The format of ordinary text, for models that were taught no other: the public tool's `default`.

A call is two lines, `Action: NAME` and `Action Input: {...}`; the tools are a list in words in the system text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.render.tools.base import (
    Found,
    Functions,
    ToolFormat,
    Verdict,
    arguments_of,
    json_text,
    read_json,
    skip_space,
)
from tunesmith.render.tools.grammar import CallRules, object_schema
from tunesmith.types import ToolCall, ToolSpec

_FENCE = "```"
_EXAMPLE = '{"input": "hello world", "num_beams": 5}'
_BEGIN = re.compile(r"Action:\s*([^\s]+)\s*Action Input:")


class Default(ToolFormat):
    """`Action:` and `Action Input:` lines."""

    name = "default"
    joint = ""
    line_openers = ("Action:",)
    sources = (("Action Input:",),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """The tools in words, and how to call them."""
        names = ", ".join(tool.name for tool in tools)
        return (
            "You have access to the following tools:\n"
            + "".join(map(_tool_in_words, tools))
            + f"Use the following format if using a tool:\n{_FENCE}\nAction: tool name (one of [{names}])\n"
            "Action Input: the input to the tool, in a JSON format representing the kwargs "
            f"(e.g. {_FENCE}{_EXAMPLE}{_FENCE})\n{_FENCE}\n"
        )

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """Two lines per call."""
        return "\n".join(f"Action: {call.name}\nAction Input: {json_text(arguments_of(call))}" for call in calls)

    def match(self, text: str, functions: Functions, *, is_final: bool) -> Verdict:
        """See `ToolFormat.match`."""
        begin = _BEGIN.match(text)
        if begin is None:
            return "more" if not is_final and _may_begin(text, functions) else "no"
        start = skip_space(text, begin.end())
        if begin[1] not in functions:
            return "no"
        if start == len(text):
            return "more"
        value = read_json(text, start) if text[start] == "{" else "no"
        if isinstance(value, str):
            return value
        return Found(value[1], (ToolCall(begin[1], json_text(value[0])),))

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules:
        """See `ToolFormat.call_rules`."""
        forms = tuple(
            (f"Action: {name}\nAction Input: ", object_schema(parameters)) for name, parameters in functions.items()
        )
        return CallRules(forms, separator="\n" if many else None, trigger="Action: ")


def _may_begin(text: str, functions: Functions) -> bool:
    """Whether `text`, which begins with `Action:`, may still become the beginning of a call."""
    words = text.removeprefix("Action:").lstrip()
    parts = words.split(None, 1)
    if not parts:
        return True
    if len(parts) == 1 and words == parts[0]:
        return any(name.startswith(words) for name in functions)
    tail = parts[1] if len(parts) > 1 else ""
    return parts[0] in functions and "Action Input:".startswith(tail)


def _tool_in_words(tool: ToolSpec) -> str:
    properties = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or ()
    lines = [f"  - {name} {_parameter(properties[name], name in required)}\n" for name in properties]
    return f"> Tool Name: {tool.name}\nTool Description: {tool.description}\nTool Args:\n{''.join(lines)}\n"


def _parameter(schema: Any, is_required: bool) -> str:
    schema = schema if isinstance(schema, Mapping) else {}
    text = f"({schema.get('type', '')}{', required' if is_required else ''}): {schema.get('description', '')}"
    if schema.get("enum"):
        text += f", should be one of [{', '.join(map(str, schema['enum']))}]"
    items = schema.get("items")
    if items and isinstance(items, Mapping):
        text += f", where each item should be {items.get('type', '')}"
    return text
