"""What a model's own Jinja template can do with tools, found out by rendering probes; and a way around what it cannot.

A template that was written without tools in mind drops them without a word: the model would be trained to call
functions that nobody told it, or on answers whose calls are gone. So each part is tried once, and a conversation that
needs a missing part is refused. `tool_format` then writes tools and calls as words of ordinary turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.errors import DataError
from tunesmith.render.tools import ToolFormat
from tunesmith.render.tools.base import arguments_of, joined_system
from tunesmith.types import Message, ToolCall, ToolSpec

Render = Callable[[Sequence[Message], Sequence[ToolSpec], bool], str]
"""(messages, tools, whether arguments are given as JSON text) -> text. Raises: DataError."""

_VALUE, _RESULT = "PROBE-VALUE", "PROBE-RESULT"
_TOOL = ToolSpec("probe_function", "PROBE", {"type": "object", "properties": {"given": {"type": "string"}}})
_ASKED = Message("user", "PROBE-QUESTION")
_CALLED = Message("assistant", "", tool_calls=(ToolCall("probe_function", f'{{"given": "{_VALUE}"}}', "call00001"),))
_TOLD = Message("tool", _RESULT)


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """What a template writes.

    Attributes:
        tools: the tools.
        calls: calls of assistant turns.
        results: turns of tools.
        text_arguments: it takes the arguments of a call as JSON text, not as an object.
        call: the text of a conversation that ends with a call, up to the call's value and after it.
        after_call: what follows that text when a result comes; empty when it is not a continuation.
    """

    tools: bool
    calls: bool
    results: bool
    text_arguments: bool
    call: tuple[str, str] = ("", "")
    after_call: str = ""


def find_support(render: Render) -> ToolSupport:
    """Try every part once."""
    told = _try(render, (_ASKED,), (_TOOL,), False)
    called, text_arguments = _try(render, (_ASKED, _CALLED), (), False), False
    if _VALUE not in called:
        called, text_arguments = _try(render, (_ASKED, _CALLED), (), True), True
    has_calls = _VALUE in called and _TOOL.name in called
    talk = (_ASKED, _CALLED if has_calls else Message("assistant", _VALUE), _TOLD)
    answered = _try(render, talk, (), text_arguments)
    before, _, after = called.rpartition(_VALUE)
    return ToolSupport(
        _TOOL.name in told,
        has_calls,
        _RESULT in answered,
        has_calls and text_arguments,
        (before, after) if has_calls else ("", ""),
        answered[len(called) :] if has_calls and answered.startswith(called) else "",
    )


def _try(render: Render, messages: Sequence[Message], tools: Sequence[ToolSpec], text_arguments: bool) -> str:
    try:
        return render(messages, tools, text_arguments)
    except DataError:
        return ""


def refuse_what_is_lost(support: ToolSupport, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> None:
    """Raises: DataError when the template would leave out the tools, a call or a result."""
    needed = (
        ("the tools of the conversation", bool(tools), support.tools),
        ("the calls of an assistant's turn", any(message.tool_calls for message in messages), support.calls),
        ("the result of a tool", any(message.role == "tool" for message in messages), support.results),
    )
    lost = [what for what, is_there, is_written in needed if is_there and not is_written]
    if lost:
        raise DataError(
            f"the model's own chat template does not write {' and '.join(lost)}",
            why="they would be left out without a word",
            fix="set `tool_format: default`, which writes them as words, or name one of Tunesmith's templates with "
            "`template:` (`tunesmith template list`)",
        )


def in_words(
    form: ToolFormat, support: ToolSupport, messages: Sequence[Message], tools: Sequence[ToolSpec]
) -> list[Message]:
    """The messages with tools, calls and results as words of ordinary turns, in a format of Tunesmith's.

    The tools stand in the system text, results in turns of the tool where the template has them, else of the user.
    """
    told = joined_system(messages, form.tools_text(tools), form) if tools else messages
    return [_in_words(form, support, told, index) for index in range(len(told))]


def _in_words(form: ToolFormat, support: ToolSupport, messages: Sequence[Message], index: int) -> Message:
    message = messages[index]
    if message.tool_calls:
        calls = form.calls_text(message.tool_calls)
        words = message.content + form.separator + calls if message.content else calls
        return replace(message, content=words, tool_calls=())
    if message.role == "tool":
        return Message("tool" if support.results else "user", form.result_text(message.content, None))
    return message


def call_row(call: ToolCall, *, text_arguments: bool) -> dict[str, Any]:
    """A call in the envelope of the OpenAI API. Raises: DataError when its arguments are no JSON object."""
    arguments = arguments_of(call)
    function = {"name": call.name, "arguments": call.arguments if text_arguments else arguments}
    return {**({"id": call.id} if call.id else {}), "type": "function", "function": function}
