"""Tools in a chat template that is written as Jinja: what tells them, and what writes calls and results.

The text is taken from the tool format itself, rendered with stand-ins for a name, a description and arguments, whose
places then become Jinja expressions. Only formats whose calls are a name and JSON arguments can be written this way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.render.tools import ToolFormat
from tunesmith.render.tools.base import bare, json_text, wrapped
from tunesmith.types import ToolCall, ToolSpec

_NAMES = ("STANDIN-ONE", "STANDIN-TWO")
_TOOLS = tuple(ToolSpec(name, "", {}) for name in _NAMES)
_CALLS = tuple(ToolCall(name, json.dumps({name: 1})) for name in _NAMES)
_RESULTS = {"llama3": "message['content'] | tojson"}
"""Formats that write results in another way than as they are."""
_WRITABLE = ("default", "qwen", "ling", "minimax1", "llama3", "glm4")

_IN_WORDS = """\
{%- for tool in tools -%}
{%- set function = tool['function'] -%}
{%- set schema = function['parameters'] or {} -%}
{%- set told.text = told.text + '> Tool Name: ' + function['name'] + '\\nTool Description: ' -%}
{%- set told.text = told.text + (function['description'] or '') + '\\nTool Args:\\n' -%}
{%- for name, value in (schema['properties'] or {}).items() -%}
{%- set told.text = told.text + '  - ' + name + ' (' + (value['type'] or '') -%}
{%- set told.text = told.text + (', required' if name in (schema['required'] or []) else '') -%}
{%- set told.text = told.text + '): ' + (value['description'] or '') -%}
{%- if value['enum'] -%}
{%- set told.text = told.text + ', should be one of [' + (value['enum'] | join(', ')) + ']' -%}
{%- endif -%}
{%- if value['items'] is mapping and value['items'] -%}
{%- set told.text = told.text + ', where each item should be ' + (value['items']['type'] or '') -%}
{%- endif -%}
{%- set told.text = told.text + '\\n' -%}
{%- endfor -%}
{%- set told.text = told.text + '\\n' -%}
{%- set told.names = told.names + [function['name']] -%}
{%- endfor -%}"""


@dataclass(frozen=True, slots=True)
class JinjaTools:
    """The parts of a template.

    Attributes:
        told: sets `told.text` to the text that tells `tools`.
        calls: sets `calls.text` to the text of `message['tool_calls']`.
        result: the expression of a result.
    """

    told: str
    calls: str
    result: str


def jinja_tools(form: ToolFormat) -> JinjaTools | None:
    """The parts for a format; None where Jinja cannot write it."""
    if form.name not in _WRITABLE:
        return None
    told = _told_in_words(form) if form.name == "default" else _told_as_json(form)
    return JinjaTools(told, _calls(form), _RESULTS.get(form.name, "message['content']"))


def quote(text: str) -> str:
    """A Jinja string literal: for everything that can stand in a template, JSON's escapes are Jinja's."""
    return json.dumps(text, ensure_ascii=False)


def _told_in_words(form: ToolFormat) -> str:
    head, _, rest = form.tools_text(_TOOLS[:1]).partition("> Tool Name: ")
    before, after = rest.partition("\nTool Args:\n\n")[2].split(_NAMES[0])
    return "\n".join(
        (
            f"{{%- set told.text = {quote(head)} -%}}",
            _IN_WORDS,
            f"{{%- set told.text = told.text + {quote(before)} + (told.names | join(', ')) + {quote(after)} -%}}",
        )
    )


def _told_as_json(form: ToolFormat) -> str:
    marks: dict[str, str] = {}
    for number, tool in enumerate(_TOOLS):
        for shape, expression in ((wrapped(tool), "tool"), (bare(tool), "tool['function']")):
            for indent, option in ((None, ""), (4, "(indent=4)")):
                marks[json_text(shape, indent)] = f"{number}({expression} | tojson{option})"
        marks[tool.name] = f"{number}tool['function']['name']"
    return _loop(
        "told.text", "tools", "tool", _parts(form.tools_text(_TOOLS[:1]), marks), _parts(form.tools_text(_TOOLS), marks)
    )


def _calls(form: ToolFormat) -> str:
    marks: dict[str, str] = {}
    for number, call in enumerate(_CALLS):
        marks[call.arguments] = (
            f"{number}(call['arguments'] if call['arguments'] is string else call['arguments'] | tojson)"
        )
        marks[call.name] = f"{number}call['name']"
    loop = _loop(
        "calls.text",
        "message['tool_calls']",
        "given",
        _parts(form.calls_text(_CALLS[:1]), marks),
        _parts(form.calls_text(_CALLS), marks),
    )
    return loop.replace(_BEGIN, _BEGIN + "\n{%- set call = given['function'] or given -%}", 1)


_BEGIN = "{#- each -#}"


def _parts(text: str, marks: Mapping[str, str]) -> list[str]:
    """Literal text and marks in turn, beginning and ending with literal text."""
    found = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
    return [marks.get(part, part) for part in re.split(f"({found})", text)]


def _loop(target: str, items: str, item: str, one: Sequence[str], two: Sequence[str]) -> str:
    """Jinja that sets `target` to the text of all items, from that of one item and that of two.

    Args:
        target: the name that is set.
        items: the expression that is looped over.
        item: the name of the loop's variable.
        one: the parts of the text with one item.
        two: the parts with two.
    """
    size = len(one)  # literal, mark, ..., literal
    several = quote(two[0]) if one[0] == two[0] else f"({quote(one[0])} if {items} | length == 1 else {quote(two[0])})"
    closing = (
        quote(two[-1]) if one[-1] == two[-1] else f"({quote(one[-1])} if {items} | length == 1 else {quote(two[-1])})"
    )
    inner = " + ".join(part[1:] if index % 2 == 0 else quote(part) for index, part in enumerate(one[1:-1]))
    return "\n".join(
        (
            f"{{%- set {target} = {several} -%}}",
            f"{{%- for {item} in {items} -%}}",
            _BEGIN,
            f"{{%- set {target} = {target} + ('' if loop.first else {quote(two[size - 1])}) -%}}",
            f"{{%- set {target} = {target} + {inner} -%}}",
            "{%- endfor -%}",
            f"{{%- set {target} = {target} + {closing} -%}}",
        )
    )
