"""Formats that put each call, as JSON, between tags: Qwen's and those made after it.

The tools stand in the system text, one JSON object per line. A closing tag inside a string of the arguments closes
nothing, since the JSON is read first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tunesmith.render.tools.base import (
    Found,
    Functions,
    ToolFormat,
    Verdict,
    arguments_of,
    bare,
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
    sources: ClassVar[tuple[tuple[str, ...], ...]] = (("<tool_call>", '"arguments": '),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """One line of JSON per tool between the vendor's sentences."""
        return TOOLS_HEADER + "".join("\n" + json_text(wrapped(tool)) for tool in tools) + _CALL_RULE

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """`<tool_call>` blocks, one below the other."""
        return "\n".join(f"{self.opening}\n{call_json(call)}\n{self.closing}" for call in calls)

    def match(self, text: str, functions: Functions, *, is_final: bool) -> Verdict:
        """See `ToolFormat.match`. A call whose closing tag never came is a call once nothing follows."""
        verdict = read_calls(text, len(self.opening), functions)
        if not isinstance(verdict, Found):
            return verdict
        end = skip_space(text, verdict.length)
        rest = text[end:]
        if rest.startswith(self.closing):
            return Found(end + len(self.closing), verdict.calls)
        if is_final and not rest:
            return Found(len(text), verdict.calls)
        return "more" if self.closing.startswith(rest) else "no"

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules:
        """See `ToolFormat.call_rules`."""
        form = (f"{self.opening}\n", call_schema(functions), f"\n{self.closing}")
        return CallRules((form,), separator="\n" if many else None, trigger=self.opening)


class Ling(Qwen):
    """Ling: as Qwen, with a last line that switches thinking off. Its own template's calls are known as Qwen's."""

    name = "ling"
    sources = ()

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """As Qwen's, with the line after it."""
        return super().tools_text(tools) + "\ndetailed thinking off"


class MiniMax1(ToolFormat):
    """MiniMax-M1: one `<tool_calls>` block, in it one JSON object per line."""

    name = "minimax1"
    opening: ClassVar[str] = "<tool_calls>"
    closing: ClassVar[str] = "</tool_calls>"
    openers = (opening,)
    markers = (opening, closing)
    sources = (("<tool_calls>",),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """One line of JSON per tool, and how to call them."""
        lines = "\n".join(json_text(bare(tool)) for tool in tools)
        return (
            f"You are provided with these tools:\n<tools>\n{lines}\n</tools>\n\n"
            "If you need to call tools, please respond with <tool_calls></tool_calls> XML tags, and provide tool-name "
            "and json-object of arguments, following the format below:\n<tool_calls>\n"
            '{"name": <tool-name>, "arguments": <args-json-object>}\n...\n</tool_calls>'
        )

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """One block with all calls."""
        return "\n".join((self.opening, *map(call_json, calls), self.closing))

    def match(self, text: str, functions: Functions, *, is_final: bool) -> Verdict:
        """See `ToolFormat.match`."""
        found: tuple[ToolCall, ...] = ()
        at = skip_space(text, len(self.opening))
        while not text.startswith(self.closing, at):
            if at == len(text) and is_final and found:
                return Found(at, found)
            if self.closing.startswith(text[at:]):
                return "more"
            verdict = read_calls(text, at, functions)
            if not isinstance(verdict, Found):
                return verdict
            found += verdict.calls
            at = skip_space(text, verdict.length)
        return Found(at + len(self.closing), found) if found else "no"

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules:
        """See `ToolFormat.call_rules`."""
        return CallRules(
            ((call_schema(functions),),),
            opening=f"{self.opening}\n",
            separator="\n" if many else None,
            closing=f"\n{self.closing}",
            trigger=self.opening,
        )


def call_json(call: ToolCall, key: str = "arguments") -> str:
    """A call as a JSON object."""
    return f'{{"name": {json_text(call.name)}, {json_text(key)}: {json_text(arguments_of(call))}}}'
