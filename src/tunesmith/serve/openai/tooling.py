"""Which tools a chat request shows to the model, and the grammar that its answer is held to.

`tool_choice: none` shows no tools. `required` and a named tool hold the answer to a grammar of calls; so do `auto` with
`parallel_tool_calls: false` or with a `strict` function, where text without a call stays possible. Where the form of
the calls cannot hold the name of an argument, none of these can be promised, so they are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tunesmith.infer.engine import Grammar
from tunesmith.render import Renderer
from tunesmith.serve.openai.errors import UNSUPPORTED, refused
from tunesmith.serve.openai.fields import ChosenTool, JsonObjectFormat, JsonSchemaFormat
from tunesmith.serve.openai.messages import to_tools
from tunesmith.serve.openai.requests import ChatBody
from tunesmith.types import ToolSpec

JSON_LAYOUT = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
"""Where spaces stand in JSON answers. Where any number may stand, small models write line ends until the limit."""


@dataclass(frozen=True)
class Shape:
    """`tools`: what the model is shown; `grammar`: what its answer is held to; `param`: the field that asks for it."""

    tools: tuple[ToolSpec, ...] = ()
    grammar: Grammar | None = None
    param: str = "messages"


def to_shape(body: ChatBody, renderer: Renderer) -> Shape:
    """Tools and grammar of a request. Raises: ApiError when they contradict each other or cannot be honoured."""
    tools = tuple(to_tools(body.tools or ()))
    if not tools:
        _refuse_without_tools(body)
    elif renderer.tool_format is None:
        raise refused(
            "tools",
            f"how template {renderer.template_name} writes calls is not known, so that they could not be read; "
            "name tool_format in the configuration, or a template that has tools",
            UNSUPPORTED,
        )
    if body.tool_choice == "none":
        tools = ()
    form = _response_grammar(body)
    if form is not None and tools:
        raise refused(
            "response_format",
            "response_format cannot hold while tools may be called; set tool_choice to none, or leave one of them out",
            UNSUPPORTED,
        )
    if form is not None:
        return Shape(tools, form, "response_format")
    return _calls(body, tools, renderer) if tools else Shape()


def _refuse_without_tools(body: ChatBody) -> None:
    if body.tool_choice not in (None, "none", "auto"):
        raise refused("tool_choice", "tool_choice asks for a call, but there are no tools")


def _response_grammar(body: ChatBody) -> Grammar | None:
    form = body.response_format
    if isinstance(form, JsonObjectFormat):
        return Grammar("json_schema", json.dumps({**JSON_LAYOUT, "type": "object"}))
    if isinstance(form, JsonSchemaFormat):
        try:
            return Grammar("json_schema", json.dumps({**JSON_LAYOUT, **form.json_schema.schema_}))
        except (ValueError, RecursionError):
            raise refused("response_format.json_schema.schema", "the schema is nested too deeply") from None
    return None


def _calls(body: ChatBody, tools: tuple[ToolSpec, ...], renderer: Renderer) -> Shape:
    parallel = body.parallel_tool_calls is not False
    names: list[str] | None = None
    required, param = body.tool_choice == "required", "tool_choice"
    if isinstance(body.tool_choice, ChosenTool):
        names, required, parallel = [body.tool_choice.function.name], True, False
        if names[0] not in [tool.name for tool in tools]:
            raise refused("tool_choice", f"tool_choice names '{names[0]}', which is not among the tools")
    if not required and parallel and not any(tool.function.strict for tool in body.tools or ()):
        return Shape(tools)
    if not required:
        param = "tools" if parallel else "parallel_tool_calls"
    text = renderer.call_grammar(tools, names, required, parallel)
    if text is None:
        raise refused(
            param,
            f"template {renderer.template_name} writes calls in a form that cannot hold the name of one of the "
            "arguments, so this cannot be promised; leave it out, or rename the argument",
            UNSUPPORTED,
        )
    return Shape(tools, Grammar("lark", text), param)
