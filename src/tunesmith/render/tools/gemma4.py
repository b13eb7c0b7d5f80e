"""Gemma 4's format: a notation of its own in which the token `<|"|>` stands on both sides of every text.

Names stand bare and sorted, as the vendor's template sorts them: the case of letters does not count. What is no text is
written as JSON writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.render.tools.arguments import FREE_NAME, are_names, kinds_of, text_choices
from tunesmith.render.tools.base import Functions, arguments_of, json_text
from tunesmith.render.tools.grammar import CallRules
from tunesmith.render.tools.parameters import Block
from tunesmith.render.tools.pieces import AnyValue, Form, OneOf, Pattern, Piece, Repeated, Row, Until
from tunesmith.types import ToolCall, ToolSpec

_QUOTE = '<|"|>'
_FREE = re.compile(r"[^,\[\]{}]+")


class Gemma4(Block):
    """Gemma 4: `<|tool_call>call:NAME{key:<|"|>text<|"|>}<tool_call|>`."""

    name = "gemma4"
    joint = ""
    separator = ""
    opening = "<|tool_call>"
    closing = "<tool_call|>"
    inside = "call:"
    openers = (opening,)
    markers = (opening, closing, _QUOTE)
    sources = (("<|tool_call>",),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """A declaration per tool."""
        return "".join(f"<|tool>{_declaration(tool)}<tool|>" for tool in tools)

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """A block per call."""
        return "".join(
            f"{self.opening}call:{call.name}{_written(arguments_of(call), bare_names=True)}{self.closing}"
            for call in calls
        )

    def read_block(self, block: str, functions: Functions) -> tuple[ToolCall, ...]:
        """See `Block.read_block`."""
        found = re.fullmatch(r"\s*call:([^\s{]+)(\{.*\})\s*", block, re.DOTALL)
        if found is None or found[1] not in functions:
            return ()
        try:
            value, end = _read(found[2], 0)
        except (ValueError, IndexError, RecursionError):
            return ()
        return (ToolCall(found[1], json_text(value)),) if end == len(found[2]) and isinstance(value, dict) else ()

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules | None:
        """See `ToolFormat.call_rules`."""
        if not all(are_names(parameters, r"[^\s:,{}\[\]]+") for parameters in functions.values()):
            return None
        forms = tuple(
            (f"{self.opening}call:{name}{{", *_pairs_form(parameters), f"}}{self.closing}")
            for name, parameters in functions.items()
        )
        return CallRules(forms, separator="" if many else None, trigger=self.opening)


_NUMBER = Pattern(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_TEXT: Form = (_QUOTE, Until(_QUOTE))
_PLAIN: dict[str, Form] = {
    "string": _TEXT,
    "number": (_NUMBER,),
    "integer": (Pattern(r"-?(0|[1-9][0-9]*)"),),
    "boolean": (OneOf((("true",), ("false",))),),
    "null": ("None",),
}
_ANY = AnyValue(OneOf((_TEXT, (_NUMBER,), ("true",), ("false",), ("None",))), (Pattern(FREE_NAME),))


def _pairs_form(schema: Mapping[str, Any]) -> tuple[Piece, ...]:
    """`name:value` for each property of an object, sorted, as pieces of a grammar."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return (Repeated((Pattern(FREE_NAME), ":", _ANY), ","),)
    required = schema.get("required") or ()
    items = tuple(((f"{name}:", _value_form(own)), name in required) for name, own in _sorted(properties))
    return (Row(items, ","),) if items else ()


def _value_form(schema: Any) -> Piece:
    choices = text_choices(schema)
    if choices:
        return OneOf(tuple((_text(choice),) for choice in choices))
    kinds = sorted(kinds_of(schema))
    if not kinds or not set(kinds) <= {*_PLAIN, "array", "object"}:
        return _ANY
    return OneOf(tuple(_PLAIN[kind] if kind in _PLAIN else _holder_form(kind, schema) for kind in kinds))


def _holder_form(kind: str, schema: Mapping[str, Any]) -> Form:
    """A list or an object. What a schema says through `$ref` or `anyOf` is left open."""
    if kind == "array":
        return ("[", Repeated((_value_form(schema.get("items")),), ","), "]")
    return ("{", *_pairs_form(schema), "}")


def _sorted(mapping: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(mapping.items(), key=lambda pair: pair[0].lower())


def _text(text: object) -> str:
    return f"{_QUOTE}{text}{_QUOTE}"


def _written(value: Any, *, bare_names: bool = False) -> str:
    """A value in this notation."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        pairs = (
            f"{name if bare_names else _text(name)}:{_written(item, bare_names=bare_names)}"
            for name, item in _sorted(value)
        )
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_written(item, bare_names=bare_names) for item in value) + "]"
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _read(text: str, at: int) -> tuple[Any, int]:
    """(value, end) at `at`. Raises: ValueError, IndexError when there is none."""
    if text.startswith(_QUOTE, at):
        end = text.index(_QUOTE, at + len(_QUOTE))
        return text[at + len(_QUOTE) : end], end + len(_QUOTE)
    if text[at] == "[":
        return _read_list(text, at + 1)
    if text[at] == "{":
        return _read_object(text, at + 1)
    found = _FREE.match(text, at)
    if found is None:
        raise ValueError("no value")
    word = found[0].strip()
    return (None if word == "None" else json.loads(word)), found.end()


def _read_list(text: str, at: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while text[at] != "]":
        value, at = _read(text, at)
        items.append(value)
        at += text[at] == ","
    return items, at + 1


def _read_object(text: str, at: int) -> tuple[dict[str, Any], int]:
    pairs: dict[str, Any] = {}
    while text[at] != "}":
        if text.startswith(_QUOTE, at):
            name, at = _read(text, at)
            at = text.index(":", at)
        else:
            colon = text.index(":", at)
            name, at = text[at:colon], colon
        value, at = _read(text, at + 1)
        pairs[str(name)] = value
        at += text[at] == ","
    return pairs, at + 1


def _declaration(tool: ToolSpec) -> str:
    schema, parts = tool.parameters, [f"declaration:{tool.name}{{description:{_text(tool.description)}"]
    if schema:
        parts.append(",parameters:{")
        if schema.get("properties"):
            parts.append("properties:{" + _properties(schema["properties"]) + "},")
        if schema.get("required"):
            parts.append(f"required:[{','.join(map(_text, schema['required']))}],")
        if schema.get("type"):
            parts.append(f"type:{_text(str(schema['type']).upper())}}}")
    return "".join((*parts, "}"))


def _properties(properties: Mapping[str, Any]) -> str:
    return ",".join(f"{name}:{{{','.join(_property(schema))}}}" for name, schema in _sorted(properties))


def _property(schema: Mapping[str, Any]) -> list[str]:
    """The parts of a parameter's schema, in the vendor's order."""
    kind = str(schema.get("type", "")).upper()
    parts = [f"description:{_text(schema['description'])}"] if schema.get("description") else []
    if kind == "STRING" and schema.get("enum"):
        parts.append(f"enum:{_written(schema['enum'])}")
    if kind == "ARRAY" and isinstance(schema.get("items"), Mapping) and schema["items"]:
        parts.append(
            "items:{" + ",".join(_item(*pair) for pair in _sorted(schema["items"]) if pair[1] is not None) + "}"
        )
    if schema.get("nullable"):
        parts.append("nullable:true")
    if kind == "OBJECT":
        inner = schema.get("properties")
        parts.append("properties:{" + _properties(inner if isinstance(inner, Mapping) else {}) + "}")
        if schema.get("required"):
            parts.append(f"required:[{','.join(map(_text, schema['required']))}]")
    return [*parts, f"type:{_text(kind)}"]


def _item(name: str, value: Any) -> str:
    if name == "properties":
        return "properties:{" + (_properties(value) if isinstance(value, Mapping) else "") + "}"
    if name == "required":
        return f"required:[{','.join(map(_text, value))}]"
    if name == "type":
        return f"type:{_written(value.upper() if isinstance(value, str) else [str(kind).upper() for kind in value])}"
    return f"{name}:{_written(value)}"
