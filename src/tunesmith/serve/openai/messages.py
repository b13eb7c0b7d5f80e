"""OpenAI's messages as the renderer's: one system turn, results in the order of their calls, arguments checked.

Chat templates know one system turn, at the start. So every `system` and `developer` message, wherever it stands, joins
it, in order, with an empty line between. Results of calls carry ids; templates do not, they rely on the order, so
results that follow each other are put into the order of the calls they answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tunesmith.serve.openai.errors import refused
from tunesmith.serve.openai.fields import (
    AssistantMessage,
    Call,
    ChatMessage,
    Content,
    SystemMessage,
    Tool,
    ToolMessage,
    UserMessage,
)
from tunesmith.types import Message, ToolCall, ToolSpec


def to_messages(sent: Sequence[ChatMessage]) -> list[Message]:
    """The turns to render. Raises: ApiError for an answer without content, a result of no call, broken arguments."""
    system: list[str] = []
    turns: list[Message] = []
    place_of_call: dict[str, int] = {}
    num_calls = 0
    results: list[tuple[int, Message]] = []
    for index, message in enumerate(sent):
        if isinstance(message, ToolMessage):
            results.append((_place_of(message, place_of_call, index), Message("tool", _text(message.content))))
            continue
        turns += _in_order(results)
        results = []
        if isinstance(message, SystemMessage):
            system.append(_text(message.content))
        elif isinstance(message, UserMessage):
            turns.append(Message("user", _text(message.content)))
        else:
            turns.append(_assistant(message, index))
            for call in message.tool_calls or ():
                place_of_call[call.id] = num_calls = num_calls + 1
    turns += _in_order(results)
    if system:
        turns.insert(0, Message("system", "\n\n".join(system)))
    return turns


def to_tools(sent: Sequence[Tool]) -> list[ToolSpec]:
    """The functions. Raises: ApiError when two have one name."""
    names = [tool.function.name for tool in sent]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise refused(f"tools[{index}].function.name", f"two tools are named '{name}'")
    return [
        ToolSpec(
            tool.function.name,
            tool.function.description or "",
            tool.function.parameters or {"type": "object", "properties": {}},
        )
        for tool in sent
    ]


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _assistant(message: AssistantMessage, index: int) -> Message:
    calls = message.tool_calls or []
    if message.content is None and not calls:
        raise refused(f"messages[{index}].content", "an assistant message needs content or tool_calls")
    return Message(
        "assistant",
        "" if message.content is None else _text(message.content),
        reasoning=message.reasoning_content,
        tool_calls=tuple(_call(call, f"messages[{index}].tool_calls[{n}]") for n, call in enumerate(calls)),
    )


def _call(call: Call, place: str) -> ToolCall:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise refused(f"{place}.function.arguments", "arguments must be the text of a JSON object")
    return ToolCall(call.function.name, call.function.arguments or "{}", call.id)


def _place_of(message: ToolMessage, place_of_call: dict[str, int], index: int) -> int:
    if message.tool_call_id not in place_of_call:
        raise refused(f"messages[{index}].tool_call_id", "no earlier message calls a tool with this id")
    return place_of_call[message.tool_call_id]


def _in_order(results: list[tuple[int, Message]]) -> list[Message]:
    return [message for _, message in sorted(results, key=lambda result: result[0])]
