"""Formats without tags around a call: Llama 3's JSON, GLM-4's name and JSON, Mistral's list.

What begins a call is what the answer, or a line of it, begins with; where it ends, its brackets tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tunesmith.render.tools.base import (
    Found,
    Functions,
    ToolFormat,
    Verdict,
    arguments_of,
    bare,
    json_text,
    read_calls,
    read_json,
    skip_space,
    wrapped,
)
from tunesmith.render.tools.grammar import CallRules, call_schema, list_schema, object_schema
from tunesmith.render.tools.tagged import call_json
from tunesmith.types import ToolCall, ToolSpec


class Llama3(ToolFormat):
    """Llama 3.1 and later: the answer is `{"name": ..., "parameters": ...}`; several calls are a list of these.

    The tools are told in front of the first user's words, as the family's own template does by default. That template
    also writes two dates into the system turn; the second is always the one that the template itself carries.
    """

    name = "llama3"
    place = "first_user"
    system_opening = "Environment: ipython\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    openers = ("<|python_tag|>",)
    line_openers = ("{", "[")
    between = ";,"
    markers = ("<|python_tag|>",)
    sources = (('"parameters": ', "ipython"), ("<|python_tag|>",))

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """How to answer, and each tool as indented JSON."""
        shown = "".join(json_text(wrapped(tool), indent=4) + "\n\n" for tool in tools)
        return (
            "Given the following functions, please respond with a JSON for a function call with its proper arguments "
            'that best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": '
            f"dictionary of argument name and its value}}.Do not use variables.\n\n{shown}"
        )

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """One object, or a list of them."""
        written = [call_json(call, "parameters") for call in calls]
        return written[0] if len(written) == 1 else f"[{', '.join(written)}]"

    def match(self, text: str, functions: Functions, *, is_final: bool) -> Verdict:
        """See `ToolFormat.match`. JSON that does not begin as a call does is words at once, not only at its end."""
        begin = re.compile(r"(?:<\|python_tag\|>)?\s*(?:\[\s*)?(?:\{\s*)?").match(text)
        assert begin is not None
        key = text[begin.end() : begin.end() + 6]
        if key not in ('"name"', '"type"') and not (
            begin.end() + len(key) == len(text) and any(form.startswith(key) for form in ('"name"', '"type"'))
        ):
            return "no"
        verdict = read_calls(text, len("<|python_tag|>") if text.startswith("<|") else 0, functions)
        return "no" if verdict == "more" and is_final else verdict

    def result_text(self, result: str, call: ToolCall | None) -> str:
        """A JSON string, as the family's own template writes any result."""
        return json_text(result)

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules:
        """See `ToolFormat.call_rules`."""
        one = call_schema(functions, "parameters")
        return CallRules(((list_schema(one) if many else one,),), words=r"[^{\[](.|\n)*")


class Glm4(ToolFormat):
    """GLM-4: the answer is the name, a line break and the arguments. Several calls are several assistant turns.

    The tools stand in a system turn of their own, below the vendor's introduction.
    """

    name = "glm4"
    place = "system_turn"
    separator = "<|assistant|>"
    markers = ("<|assistant|>",)
    sources = (("<|observation|>", "可用工具"),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """The vendor's introduction, and a section of JSON per tool."""
        sections = (
            f"\n\n## {tool.name}\n\n{json_text(bare(tool), indent=4)}\n"
            "在调用上述函数时，请使用 Json 格式表示调用的参数。"
            for tool in tools
        )
        return (
            "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
            "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具" + "".join(sections)
        )

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """Name and arguments of each call."""
        return self.separator.join(f"{call.name}\n{json_text(arguments_of(call))}" for call in calls)

    def find_openers(self, functions: Functions) -> tuple[str, ...]:
        """The header of the turn of a later call, with a name."""
        return tuple(self.separator + name for name in self.find_line_openers(functions))

    def find_line_openers(self, functions: Functions) -> tuple[str, ...]:
        """The names of the functions."""
        return tuple(f"{name}\n" for name in functions)

    def match(self, text: str, functions: Functions, *, is_final: bool) -> Verdict:
        """See `ToolFormat.match`."""
        headed = text.removeprefix(self.separator)
        name = headed.partition("\n")[0]
        start = skip_space(text, len(text) - len(headed) + len(name))
        if start == len(text):
            return "no" if is_final else "more"
        value = read_json(text, start) if text[start] == "{" else "no"
        if isinstance(value, str):
            return "no" if is_final else value
        return Found(value[1], (ToolCall(name, json_text(value[0])),))

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules:
        """See `ToolFormat.call_rules`."""
        forms = tuple((f"{name}\n", object_schema(parameters)) for name, parameters in functions.items())
        return CallRules(forms, separator=self.separator if many else None, words=r"\n(.|\n)*", lead=self.separator)


class Mistral(ToolFormat):
    """Mistral's v3 tokenizer: a list of calls after `[TOOL_CALLS]`, the tools in front of the last user's turn.

    Calls and results carry the identifier of a call only where it is one of Mistral's: nine letters or digits.
    """

    name = "mistral"
    place = "last_user"
    separator = ""
    openers = ("[TOOL_CALLS]",)
    markers = ("[TOOL_CALLS]",)
    sources = (("[TOOL_CALLS]",),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """All tools as one JSON list."""
        return f"[AVAILABLE_TOOLS] {json_text([wrapped(tool) for tool in tools])}[/AVAILABLE_TOOLS]"

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """All calls as one JSON list."""
        written = [
            {"name": call.name, "arguments": arguments_of(call)} | ({"id": call.id} if _is_own_id(call.id) else {})
            for call in calls
        ]
        return f"[TOOL_CALLS] {json_text(written)}"

    def match(self, text: str, functions: Functions, *, is_final: bool) -> Verdict:
        """See `ToolFormat.match`."""
        verdict = read_calls(text, len(self.openers[0]), functions)
        return "no" if verdict == "more" and is_final else verdict

    def result_text(self, result: str, call: ToolCall | None) -> str:
        """An object with the result, which is JSON itself where it can be."""
        try:
            content = json.loads(result)
        except ValueError:
            content = result
        identifier = {"call_id": call.id} if call and _is_own_id(call.id) else {}
        return json_text({"content": content, **identifier})

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules:
        """See `ToolFormat.call_rules`."""
        forms = ((call_schema(functions),),)
        return CallRules(
            forms, opening="[TOOL_CALLS] [", separator=", " if many else None, closing="]", trigger="[TOOL_CALLS]"
        )


def _is_own_id(identifier: str) -> bool:
    return re.fullmatch(r"[a-zA-Z0-9]{9}", identifier) is not None
