"""Formats that write each argument between tags of its own: Qwen3.5, Seed-OSS, MiniMax-M2, GLM-4.5.

A text argument stands there as it is, anything else as JSON. Which of the two a value is, the function's schema tells;
where it does not, a value is text. There is no escaping in these formats, so a text that holds the closing tag of an
argument right before another tag cannot be told from the end of it.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tunesmith.render.tools.arguments import are_names, in_tags, kinds_of
from tunesmith.render.tools.base import (
    Found,
    Functions,
    ToolFormat,
    Verdict,
    arguments_of,
    bare,
    json_text,
    wrapped,
)
from tunesmith.render.tools.grammar import CallRules
from tunesmith.render.tools.tagged import TOOLS_HEADER
from tunesmith.types import ToolCall, ToolSpec

_WORDS_OF_PYTHON = {"True": True, "False": False, "None": None}


class Block(ToolFormat):
    """Calls in a block between `opening` and `closing`."""

    opening: ClassVar[str]
    closing: ClassVar[str]
    inside: ClassVar[str] = ""
    """What the block begins with, whitespace aside; so that a block of another kind is told apart at once."""

    def match(self, text: str, functions: Functions, *, is_final: bool) -> Verdict:
        """See `ToolFormat.match`. A block whose closing tag never came is one once nothing follows."""
        begin = text[len(self.opening) :].lstrip()
        if not begin.startswith(self.inside) and not self.inside.startswith(begin):
            return "no"
        at = text.find(self.closing, len(self.opening))
        while at >= 0:
            calls = self.read_block(text[len(self.opening) : at], functions)
            if calls:
                return Found(at + len(self.closing), calls)
            at = text.find(self.closing, at + 1)
        if not is_final:
            return "more"
        calls = self.read_block(text[len(self.opening) :], functions)
        return Found(len(text), calls) if calls else "no"

    @abstractmethod
    def read_block(self, block: str, functions: Functions) -> tuple[ToolCall, ...]:
        """The calls in a block; () when it does not hold valid calls and nothing else."""


class _FunctionTags(Block):
    """A block with one function, in it one tag per argument."""

    inside = "<function="
    edge: ClassVar[str] = ""
    """What stands on both sides of a value."""
    words_of_python: ClassVar[bool] = False
    """Whether true, false and null are written as Python does."""

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """A block per call."""
        return "\n".join(map(self._call_text, calls))

    def _call_text(self, call: ToolCall) -> str:
        values = "".join(
            f"<parameter={name}>{self.edge}{self.value_text(value)}{self.edge}</parameter>\n"
            for name, value in arguments_of(call).items()
        )
        return f"{self.opening}\n<function={call.name}>\n{values}</function>\n{self.closing}"

    def value_text(self, value: Any) -> str:
        """A value as it stands between the tags."""
        return value_text(value)

    def read_block(self, block: str, functions: Functions) -> tuple[ToolCall, ...]:
        """See `Block.read_block`."""
        found = re.fullmatch(r"\s*<function=([^>\n]+)>\n?(.*?)</function>\s*", block, re.DOTALL)
        if found is None or found[1] not in functions:
            return ()
        pattern = r"<parameter=([^>\n]+)>(.*?)</parameter>\s*(?=<parameter=|\Z)"
        values = read_values(found[2], pattern, functions[found[1]], self.edge)
        return () if values is None else (ToolCall(found[1], json_text(values)),)

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules | None:
        """See `ToolFormat.call_rules`."""
        if not all(are_names(parameters, r"[^>\n]+") for parameters in functions.values()):
            return None
        opening, closing = f"<parameter=\0>{self.edge}", f"{self.edge}</parameter>\n"
        forms = tuple(
            (
                f"{self.opening}\n<function={name}>\n",
                *in_tags(parameters, opening, closing, words_of_python=self.words_of_python),
                f"</function>\n{self.closing}",
            )
            for name, parameters in functions.items()
        )
        return CallRules(forms, separator="\n" if many else None, trigger=self.opening)


class Qwen35(_FunctionTags):
    """Qwen3.5 and Qwen3-Coder: `<function=...>` in `<tool_call>`, the tools in front of the system text."""

    name = "qwen3_5"
    place = "system_start"
    separator = "\n\n"
    opening = "<tool_call>"
    closing = "</tool_call>"
    openers = (opening,)
    markers = (opening, closing)
    edge = "\n"
    words_of_python = True
    sources = (("<tool_call>", "<function="),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """The vendor's text with one line of JSON per tool."""
        lines = "".join("\n" + json_text(wrapped(tool)) for tool in tools)
        return (
            f"# Tools\n\nYou have access to the following functions:\n\n<tools>{lines}\n</tools>\n\n"
            "If you choose to call a function ONLY reply in the following format with NO suffix:\n\n<tool_call>\n"
            "<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
            "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\n"
            "multiple lines\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n"
            "- Function calls MUST follow the specified format: an inner <function=...></function> block must be "
            "nested within <tool_call></tool_call> XML tags\n- Required parameters MUST be specified\n"
            "- You may provide optional reasoning for your function call in natural language BEFORE the function "
            "call, but NOT after\n- If there is no function call available, answer the question like normal with "
            "your current knowledge and do not tell the user about function calls\n</IMPORTANT>"
        )

    def value_text(self, value: Any) -> str:
        """Words of Python for what is no text, list or object, as the vendor's template writes them."""
        return json_text(value) if isinstance(value, dict | list) else str(value)


class SeedOss(_FunctionTags):
    """Seed-OSS: `<function=...>` in `<seed:tool_call>`."""

    name = "seed_oss"
    opening = "<seed:tool_call>"
    closing = "</seed:tool_call>"
    openers = (opening,)
    markers = (opening, closing)
    sources = (("<seed:tool_call>",),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """The public tool's text with one line of JSON per tool."""
        lines = "".join("\n" + json_text(wrapped(tool)) for tool in tools)
        return (
            "Tool List:\nYou are authorized to use the following tools (described in JSON Schema format). Before "
            "performing any task, you must decide how to call them based on the descriptions and parameters of these "
            f"tools.{lines}\n工具调用请遵循如下格式:\n<seed:tool_call>\n<function=example_function_name>\n"
            "<parameter=example_parameter_1>value_1</parameter>\n<parameter=example_parameter_2>This is the value for "
            "the second parameter\nthat can span\nmultiple lines</parameter>\n</function>\n</seed:tool_call>\n"
        )


class MiniMax2(Block):
    """MiniMax-M2: one block with an `<invoke>` per call.

    The public tool leaves the tags around the block out and so cannot read its own calls; the vendor writes them.
    """

    name = "minimax2"
    opening = "<minimax:tool_call>"
    closing = "</minimax:tool_call>"
    inside = "<invoke name="
    openers = (opening,)
    markers = (opening, closing)
    sources = (("minimax:tool_call",),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """The vendor's text with one line of JSON per tool."""
        lines = "".join(f"<tool>{json_text(bare(tool))}</tool>\n" for tool in tools)
        return (
            "# Tools\nYou may call one or more tools to assist with the user query.\n"
            f"Here are the tools available in JSONSchema format:\n\n<tools>\n{lines}</tools>\n\n"
            "When making tool calls, use XML format to invoke tools and pass parameters:\n\n<minimax:tool_call>\n"
            '<invoke name="tool-name-1">\n<parameter name="param-key-1">param-value-1</parameter>\n'
            '<parameter name="param-key-2">param-value-2</parameter>\n...\n</invoke>\n</minimax:tool_call>'
        )

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """One block with all calls."""
        return "\n".join((self.opening, *map(_invoke, calls), self.closing))

    def read_block(self, block: str, functions: Functions) -> tuple[ToolCall, ...]:
        """See `Block.read_block`."""
        calls: list[ToolCall] = []
        pattern = re.compile(r'\s*<invoke name="([^"\n]+)">\n?(.*?)</invoke>(?=\s*(?:<invoke name=|\Z))', re.DOTALL)
        at = 0
        while (found := pattern.match(block, at)) is not None:
            if found[1] not in functions:
                return ()
            values = read_values(
                found[2], r'<parameter name="([^"\n]+)">(.*?)</parameter>\s*(?=<parameter |\Z)', functions[found[1]]
            )
            if values is None:
                return ()
            calls.append(ToolCall(found[1], json_text(values)))
            at = found.end()
        return tuple(calls) if not block[at:].strip() else ()

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules | None:
        """See `ToolFormat.call_rules`."""
        if not all(are_names(parameters, r'[^"\n]+') for parameters in functions.values()):
            return None
        forms = tuple(
            (
                f'<invoke name="{name}">\n',
                *in_tags(parameters, '<parameter name="\0">', "</parameter>\n"),
                "</invoke>",
            )
            for name, parameters in functions.items()
        )
        return CallRules(
            forms,
            opening=f"{self.opening}\n",
            separator="\n" if many else None,
            closing=f"\n{self.closing}",
            trigger=self.opening,
        )


class Glm4Moe(Block):
    """GLM-4.5 and later: name and pairs of `<arg_key>` and `<arg_value>` in `<tool_call>`."""

    name = "glm4_moe"
    place = "system_turn"
    opening = "<tool_call>"
    closing = "</tool_call>"
    openers = (opening,)
    markers = (opening, closing, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    sources = (("<arg_key>",),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """The vendor's text with one line of JSON per tool."""
        lines = "".join(f"\n{json_text(wrapped(tool))}" for tool in tools)
        return (
            f"{TOOLS_HEADER}{lines}\n</tools>\n\nFor each function call, output the function name and arguments "
            "within the following XML format:\n<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n"
            "<arg_value>{arg-value-1}</arg_value>\n<arg_key>{arg-key-2}</arg_key>\n"
            "<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"
        )

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """A block per call, closed as the vendor does; the public tool leaves the closing tag out."""
        return "\n".join(map(self._call_text, calls))

    def _call_text(self, call: ToolCall) -> str:
        values = "".join(
            f"<arg_key>{name}</arg_key>\n<arg_value>{value_text(value)}</arg_value>\n"
            for name, value in arguments_of(call).items()
        )
        return f"{self.opening}{call.name}\n{values}{self.closing}"

    def read_block(self, block: str, functions: Functions) -> tuple[ToolCall, ...]:
        """See `Block.read_block`."""
        name, _, rest = block.lstrip().partition("\n")
        if name.strip() not in functions:
            return ()
        pattern = r"<arg_key>([^<\n]+)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*(?=<arg_key>|\Z)"
        values = read_values(rest, pattern, functions[name.strip()])
        return () if values is None else (ToolCall(name.strip(), json_text(values)),)

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules | None:
        """See `ToolFormat.call_rules`."""
        if not all(are_names(parameters, r"[^<\n]+") for parameters in functions.values()):
            return None
        opening, closing = "<arg_key>\0</arg_key>\n<arg_value>", "</arg_value>\n"
        forms = tuple(
            (f"{self.opening}{name}\n", *in_tags(parameters, opening, closing), self.closing)
            for name, parameters in functions.items()
        )
        return CallRules(forms, separator="\n" if many else None, trigger=self.opening)


def _invoke(call: ToolCall) -> str:
    values = "".join(
        f'<parameter name="{name}">{value_text(value)}</parameter>\n' for name, value in arguments_of(call).items()
    )
    return f'<invoke name="{call.name}">\n{values}</invoke>'


def value_text(value: Any) -> str:
    """A value as it stands between tags: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json_text(value)


def read_values(text: str, pattern: str, parameters: Mapping[str, Any], edge: str = "") -> dict[str, Any] | None:
    """The values between the tags that `pattern` finds, typed by the schema; None when anything else stands there."""
    values: dict[str, Any] = {}
    expression, at = re.compile(r"\s*" + pattern, re.DOTALL), 0
    while (found := expression.match(text, at)) is not None:
        value = found[2].removeprefix(edge).removesuffix(edge)
        values[found[1]] = typed_value(value, _schema_of(parameters, found[1]))
        at = found.end()
    return None if text[at:].strip() else values


def _schema_of(parameters: Mapping[str, Any], name: str) -> Any:
    properties = parameters.get("properties")
    return properties.get(name) if isinstance(properties, Mapping) else None


def typed_value(text: str, schema: Any) -> Any:
    """The value that `text` stands for under a parameter's schema: text, unless the schema says otherwise."""
    kinds = kinds_of(schema)
    if not kinds or kinds == {"string"}:
        return text
    if text in _WORDS_OF_PYTHON:
        return _WORDS_OF_PYTHON[text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if "string" in kinds and isinstance(value, str) else value
