"""Tool descriptions and tool calls, as they stand in rows, to `ToolSpec` and `ToolCall`.

Both come as JSON text or as JSON values, bare (`{"name": ..., "parameters": ...}`) or in the envelope
of the OpenAI API (`{"type": "function", "function": {...}}`). Arguments are kept as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunesmith.data.rows import RowError, short, type_name
from tunesmith.types import ToolCall, ToolSpec

_FIX_TOOLS = 'write a list of {"name": ..., "description": ..., "parameters": {...}}'
_FIX_CALL = 'write {"name": ..., "arguments": {...}}'


def parse_tools(row: Mapping[str, Any], column: str | None) -> tuple[ToolSpec, ...]:
    """The tools of a row; () when it has none. Raises: RowError when they are not a list of tools."""
    value = row.get(column) if column else None
    if value in (None, "", []) or (isinstance(value, str) and not value.strip()):
        return ()
    tools = _json_value(value, str(column), _FIX_TOOLS)
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, list):
        raise RowError(str(column), f"is {type_name(tools)}, expected a list of tools", _FIX_TOOLS)
    return tuple(_tool(tool, f"{column}[{index}]") for index, tool in enumerate(tools))


def _tool(value: Any, field: str) -> ToolSpec:
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise RowError(field, "is not a tool with a name", _FIX_TOOLS)
    parameters = value.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise RowError(f"{field}.parameters", f"is {type_name(parameters)}, expected a JSON schema", _FIX_TOOLS)
    return ToolSpec(value["name"], str(value.get("description") or ""), parameters)


def parse_calls(value: Any, field: str) -> tuple[ToolCall, ...]:
    """One call or a list of calls, as JSON text or value. Raises: RowError when it is neither."""
    calls = _json_value(value, field, _FIX_CALL)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls:
        raise RowError(field, "holds no tool call", _FIX_CALL)
    return tuple(_call(call, field) for call in calls)


def _call(value: Any, field: str) -> ToolCall:
    identifier = value.get("id") if isinstance(value, Mapping) else None
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise RowError(field, f"is not a tool call with a name: {short(value)}", _FIX_CALL)
    arguments = value.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    return ToolCall(value["name"], arguments, str(identifier or ""))


def _json_value(value: Any, field: str, fix: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise RowError(field, f"is not valid JSON: {error.msg} at character {error.pos}", fix) from None
