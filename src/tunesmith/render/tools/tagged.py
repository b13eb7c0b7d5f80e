"""Formats that put each call, as JSON, between tags: Qwen's and those made after it.

The tools stand in the system text, one JSON object per line. A closing tag inside a string of the arguments closes
nothing, since the JSON is read first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from tunesmith.render.tools.base import (
    Found,
    ToolFormat,
    Verdict,
    arguments_of,
    json_text,
    read_calls,
    skip_space,
    wrapped,
)
from tunesmith.render.tools.grammar import CallRules, call_schema
from tunesmith.types import ToolCall, ToolSpec

TOOLS_HEADER = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_CALL_RULE = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


class Qwen(ToolFormat):
    """Qwen2.5 and Qwen3: `<tool_call>` around each call."""

    name = "qwen"
    opening: ClassVar[str] = "<tool_call>"
    closing: ClassVar[str] = "</tool_call>"
    openers = (opening,)
    markers = (opening, closing)
    sources = (("<tool_call>", '"arguments": '),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """One line of JSON per tool between the vendor's sentences."""
        return TOOLS_HEADER + "".join("\n" + json_text(wrapped(tool)) for tool in tools) + _CALL_RULE

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """`<tool_call>` blocks, one below the other."""
        return "\n".join(f"{self.opening}\n{_call_json(call)}\n{self.closing}" for call in calls)

    def match(self, text: str, names: Collection[str], *, is_final: bool) -> Verdict:
        """See `ToolFormat.match`. A call whose closing tag never came is a call once nothing follows."""
        verdict = read_calls(text, len(self.opening), names)
        if not isinstance(verdict, Found):
            return verdict
        end = skip_space(text, verdict.length)
        rest = text[end:]
        if rest.startswith(self.closing):
            return Found(end + len(self.closing), verdict.calls)
        if is_final and not rest:
            return Found(len(text), verdict.calls)
        return "more" if self.closing.startswith(rest) else "no"

    def call_rules(self, tools: Sequence[ToolSpec]) -> CallRules:
        """See `ToolFormat.call_rules`."""
        schema = call_schema({tool.name: tool.parameters for tool in tools})
        return CallRules(((f"{self.opening}\n", schema, f"\n{self.closing}"),), trigger=self.opening)


class Ling(Qwen):
    """Ling: as Qwen, with a last line that switches thinking off."""

    name = "ling"
    sources = ()  # its calls are Qwen's

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """As Qwen's, with the line after it."""
        return super().tools_text(tools) + "\ndetailed thinking off"


def _call_json(call: ToolCall) -> str:
    return f'{{"name": {json_text(call.name)}, "arguments": {json_text(arguments_of(call))}}}'
