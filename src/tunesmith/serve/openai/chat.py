"""POST /v1/chat/completions: one flow of deltas, sent as events or joined into one answer.

Both forms of an answer come from the same deltas, so they cannot differ: the streamed one sends them, the whole one
adds them up. Events keep OpenAI's rules: first the role with empty content, one id, the reason of the end in a last
event without text, then (if asked for) the usage with no choices.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tunesmith import __version__
from tunesmith.errors import UserError
from tunesmith.infer.engine import SamplingParams, StreamPiece
from tunesmith.render import Renderer
from tunesmith.render.reader import CallDelta, Delta, ReasoningDelta
from tunesmith.serve.openai.answering import Answering, usage
from tunesmith.serve.openai.errors import UNSUPPORTED, from_user_error, refused
from tunesmith.serve.openai.logprobs import ChatLogprobs, ShownTokens
from tunesmith.serve.openai.messages import to_messages
from tunesmith.serve.openai.requests import ChatBody
from tunesmith.serve.openai.run import Run
from tunesmith.serve.openai.sampling import choice_params, held_to, to_params
from tunesmith.serve.openai.service import Service
from tunesmith.serve.openai.token_bytes import TokenBytes
from tunesmith.serve.openai.tooling import Shape, to_shape
from tunesmith.types import Message, ToolSpec


async def answer_chat(request: Request, body: ChatBody, service: Service) -> Response:
    """Answer, whole or streamed. Raises: ApiError for everything that can be refused before the first token."""
    model = service.engine_model(body.model)
    answering = await Answering.begin(request, service)
    try:
        asked = await service.in_worker(_ask, body, model, service, answering.run)
        answering.record.prompt_tokens = asked.num_prompt_tokens
        if body.stream:
            return answering.stream(_events(body, asked, answering, service.token_bytes))
        content = await _whole(body, asked, answering, service.token_bytes)
    except BaseException:
        answering.end()
        raise
    answering.end()
    return JSONResponse(content)


@dataclass(frozen=True)
class _Asked:
    """What the engine was asked."""

    params: SamplingParams
    shape: Shape
    renderer: Renderer
    num_prompt_tokens: int


def _ask(body: ChatBody, model: str, service: Service, run: Run) -> _Asked:
    """Render and submit; in the rendering thread."""
    renderer = service.renderer_of(_enable_thinking(body))
    shape = to_shape(body, renderer)
    params = held_to(_params(body, service), shape.grammar)
    params = replace(params, visible_ids=renderer.visible_special_ids)  # what the reader must see
    prompt_ids = _prompt_ids(renderer, to_messages(body.messages), shape.tools)
    service.check_room(prompt_ids, params, "messages")
    try:
        for index in range(body.n or 1):
            run.submit(service.engine, index, prompt_ids, choice_params(params, body.seed, index), model)
    except UserError as error:
        raise from_user_error(error, shape.param) from None
    return _Asked(params, shape, renderer, len(prompt_ids))


def _prompt_ids(renderer: Renderer, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[int, ...]:
    """The prompt. Raises: ApiError for messages or tools that the template cannot show."""
    try:
        without_tools = renderer.prompt(messages)
    except UserError as error:
        raise from_user_error(error, "messages") from None
    except (RecursionError, UnicodeError):
        raise refused("messages", "the messages cannot be rendered: nested too deeply, or no text") from None
    if not tools:
        return without_tools
    try:
        prompt_ids = renderer.prompt(messages, tools)
    except UserError as error:
        raise refused("tools", from_user_error(error, "tools").message, UNSUPPORTED) from None
    except (RecursionError, UnicodeError):
        raise refused("tools", "the tools cannot be rendered: nested too deeply, or no text") from None
    if prompt_ids == without_tools:
        raise refused("tools", f"template {renderer.template_name} shows no tools to the model", UNSUPPORTED)
    return prompt_ids


def _enable_thinking(body: ChatBody) -> bool | None:
    given = body.chat_template_kwargs.enable_thinking if body.chat_template_kwargs else None
    if None not in (given, body.enable_thinking) and given != body.enable_thinking:
        raise refused("enable_thinking", "enable_thinking and chat_template_kwargs contradict each other")
    return body.enable_thinking if given is None else given


def _params(body: ChatBody, service: Service) -> SamplingParams:
    if body.top_logprobs is not None and not body.logprobs:
        raise refused("top_logprobs", "top_logprobs needs logprobs: true")
    if body.stream_options is not None and not body.stream:
        raise refused("stream_options", "stream_options needs stream: true")
    params = to_params(body, service.defaults, service.vocabulary_size)
    if body.max_completion_tokens is not None:
        if body.max_tokens not in (None, body.max_completion_tokens):
            raise refused("max_completion_tokens", "max_tokens and max_completion_tokens contradict each other")
        params = replace(params, max_new_tokens=body.max_completion_tokens)
    return replace(params, num_logprobs=(body.top_logprobs or 0) if body.logprobs else None)


@dataclass
class _Choice:
    """One answer on its way: pieces in, OpenAI's deltas out."""

    asked: _Asked
    token_bytes: TokenBytes
    num_top: int | None
    finish_reason: str | None = None
    num_calls: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = self.asked.renderer.reader(self.asked.shape.tools)
        self._shown = ShownTokens(self.token_bytes, self.asked.params)
        self._logprobs = None if self.num_top is None else ChatLogprobs(self.token_bytes, self.num_top)

    def take(self, piece: StreamPiece) -> list[dict[str, Any]]:
        """The deltas that `piece` makes certain; log-probabilities gather in `entries`, the end in `finish_reason`."""
        if self._logprobs is not None:
            self.entries += self._logprobs.entries(self._shown.add(piece), piece.finish_reason is not None)
        deltas = list(self._reader.feed(piece.text)) if piece.text else []
        if piece.finish_reason is not None:
            deltas += self._reader.finish()
        sent = [self._delta(delta) for delta in deltas]
        if piece.finish_reason is not None:
            called = self.num_calls and piece.finish_reason == "stop"
            self.finish_reason = "tool_calls" if called else piece.finish_reason
        return sent

    def take_logprobs(self) -> dict[str, Any] | None:
        """The log-probabilities since the last time; None when there are none."""
        entries, self.entries = self.entries, []
        return {"content": entries, "refusal": None} if entries else None

    def _delta(self, delta: Delta) -> dict[str, Any]:
        if isinstance(delta, ReasoningDelta):
            return {"reasoning_content": delta.text}
        if not isinstance(delta, CallDelta):
            return {"content": delta.text}
        call: dict[str, Any] = {"index": delta.index}
        if delta.index == self.num_calls:
            self.num_calls += 1
            call |= {"id": delta.id or f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
            return {"tool_calls": [{**call, "function": {"name": delta.name, "arguments": delta.arguments}}]}
        return {"tool_calls": [{**call, "function": {"arguments": delta.arguments}}]}


def _choices(body: ChatBody, asked: _Asked, token_bytes: TokenBytes) -> list[_Choice]:
    num_top = (body.top_logprobs or 0) if body.logprobs else None
    return [_Choice(asked, token_bytes, num_top) for _ in range(body.n or 1)]


def _head(body: ChatBody, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": body.model,
        "system_fingerprint": f"tunesmith-{__version__}",
    }


async def _events(
    body: ChatBody, asked: _Asked, answering: Answering, token_bytes: TokenBytes
) -> AsyncGenerator[dict[str, Any], None]:
    head = _head(body, "chat.completion.chunk")
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    if with_usage:
        head["usage"] = None
    choices = _choices(body, asked, token_bytes)

    def event(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        logprobs = choices[index].take_logprobs()
        return {
            **head,
            "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}],
        }

    for index in range(len(choices)):
        yield event(index, {"role": "assistant", "content": ""})
    async for index, piece in answering.pieces():
        choice = choices[index]
        for delta in choice.take(piece):
            yield event(index, delta)
        if choice.finish_reason is not None:
            yield event(index, {}, choice.finish_reason)
    if with_usage:
        yield {**head, "choices": [], "usage": usage(answering.record)}


async def _whole(body: ChatBody, asked: _Asked, answering: Answering, token_bytes: TokenBytes) -> dict[str, Any]:
    choices = _choices(body, asked, token_bytes)
    deltas: list[list[dict[str, Any]]] = [[] for _ in choices]
    async for index, piece in answering.pieces():
        deltas[index] += choices[index].take(piece)
    return {
        **_head(body, "chat.completion"),
        "choices": [
            {
                "index": index,
                "message": join_deltas(deltas[index]),
                "logprobs": {"content": choice.entries, "refusal": None} if body.logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage(answering.record),
    }


def join_deltas(deltas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that deltas add up to. Content is null where there are calls and no text."""
    text = "".join(delta.get("content", "") for delta in deltas)
    thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
    calls: list[dict[str, Any]] = []
    for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
        if part["index"] == len(calls):
            calls.append({"id": part["id"], "type": part["type"], "function": dict(part["function"])})
        else:
            calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    return message
