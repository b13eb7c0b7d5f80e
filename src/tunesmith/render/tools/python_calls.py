"""LFM2's format: calls as a Python list of calls, `[f(a='x', b=1)]`, between two special tokens.

Strings are Python's, lists and objects are JSON; so `true`, `false` and `null` are read beside Python's words. The text
is taken apart by Python's own parser and never run.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.render.tools.arguments import (
    FREE_NAME,
    are_names,
    can_be_text,
    json_piece,
    kinds_of,
    row,
    text_choices,
    words_for,
)
from tunesmith.render.tools.base import Functions, arguments_of, json_text, wrapped
from tunesmith.render.tools.grammar import CallRules
from tunesmith.render.tools.parameters import Block
from tunesmith.render.tools.pieces import Form, OneOf, Pattern, Piece
from tunesmith.types import ToolCall, ToolSpec

_WORDS = {"true": True, "false": False, "null": None}
_TEXT = Pattern(r"'([^'\\\n\r]|\\[\\'nr])*'")
_NOT_TEXT = {"type": ["number", "array", "object"]}
_MAX_LENGTH = 100_000
"""Python's parser is not made for endless input."""


class Lfm2(Block):
    """LFM2: `<|tool_call_start|>[f(a='x')]<|tool_call_end|>`."""

    name = "lfm2"
    joint = "\n"
    separator = ""
    opening = "<|tool_call_start|>"
    closing = "<|tool_call_end|>"
    inside = "["
    openers = (opening,)
    markers = (opening, closing)
    sources = (("<|tool_call_start|>",), ("<|tool_list_start|>",))

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """All tools as one JSON list."""
        return f"List of tools: <|tool_list_start|>{json_text([wrapped(tool) for tool in tools])}<|tool_list_end|>"

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """All calls as one Python list."""
        written = (
            f"{call.name}({', '.join(f'{name}={_python(value)}' for name, value in arguments_of(call).items())})"
            for call in calls
        )
        return f"{self.opening}[{', '.join(written)}]{self.closing}"

    def read_block(self, block: str, functions: Functions) -> tuple[ToolCall, ...]:
        """See `Block.read_block`."""
        if len(block) > _MAX_LENGTH:
            return ()
        try:
            tree = ast.parse(block.strip(), mode="eval").body
            calls = [_call(node, functions) for node in tree.elts] if isinstance(tree, ast.List) else []
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ()
        return tuple(calls)

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules | None:
        """See `ToolFormat.call_rules`."""
        if not all(are_names(parameters, FREE_NAME) for parameters in functions.values()):
            return None
        forms = tuple((f"{name}(", *_arguments(parameters), ")") for name, parameters in functions.items())
        return CallRules(
            forms,
            opening=f"{self.opening}[",
            separator=", " if many else None,
            closing=f"]{self.closing}",
            trigger=self.opening,
        )


def _arguments(parameters: Mapping[str, Any]) -> tuple[Piece, ...]:
    """`name=value` for each argument, as pieces of a grammar."""

    def argument(name: str, schema: Any) -> Form:
        return (f"{name}=", *_value_form(schema, parameters))

    return row(parameters, argument, (Pattern(FREE_NAME), "=", *_value_form({}, {})), ", ")


def _value_form(schema: Any, parameters: Mapping[str, Any]) -> Form:
    kinds = kinds_of(schema)
    choices = text_choices(schema)
    if kinds <= {"string"} and choices:
        return (OneOf(tuple((_python(choice),) for choice in choices)),)
    forms: list[Form] = [(_TEXT,)] if can_be_text(schema) else []
    if not kinds or kinds & {"boolean", "null"}:
        forms.append((words_for(kinds or {"boolean", "null"}),))
    others = kinds - {"string", "boolean", "null"}
    if others:
        forms.append((json_piece({**schema, "type": sorted(others)}, parameters),))
    elif not kinds:
        forms.append((_NOT_TEXT,))
    return (OneOf(tuple(forms)),)


def _python(value: Any) -> str:
    """A value as the vendor's template writes it."""
    if isinstance(value, str):
        for letter, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
            value = value.replace(letter, escaped)
        return f"'{value}'"
    return json_text(value) if isinstance(value, dict | list) else str(value)


def _call(node: ast.expr, functions: Functions) -> ToolCall:
    """Raises: ValueError when the expression is no call of one of the functions with named values."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call with named values")
    name = ast.unparse(node.func)
    if name not in functions:
        raise ValueError("no such function")
    return ToolCall(name, json_text({str(_named(given)): _value(given.value) for given in node.keywords}))


def _named(given: ast.keyword) -> str:
    if given.arg is None:
        raise ValueError("a value without a name")
    return given.arg


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_key(key): _value(item) for key, item in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError("no value of JSON")
    return value


def _key(node: ast.expr | None) -> str:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        raise ValueError("no name of an object")
    return node.value
