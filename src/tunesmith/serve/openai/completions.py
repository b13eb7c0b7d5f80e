"""POST /v1/completions: plain continuation of texts or token ids, without any chat layout.

A text is tokenized as the tokenizer itself does it: its start token in front where it has one, and special tokens that
are spelled out become those tokens, so that a prompt made by a chat template elsewhere works. `echo` repeats the prompt
in front of its answer; with `logprobs` its tokens have theirs too, but for the first, before which there is nothing.
That needs an engine that offers `read(ids, num_best, model)`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tunesmith.errors import UserError
from tunesmith.infer.engine import SamplingParams, Scored, StreamPiece
from tunesmith.serve.openai.answering import Answering, usage
from tunesmith.serve.openai.errors import UNSUPPORTED, from_user_error, refused
from tunesmith.serve.openai.fields import MAX_CHOICES, MAX_PROMPTS
from tunesmith.serve.openai.logprobs import ShownTokens, TextLogprobs
from tunesmith.serve.openai.prompts import token_lists
from tunesmith.serve.openai.requests import CompletionBody
from tunesmith.serve.openai.run import ClientLeft, Run
from tunesmith.serve.openai.sampling import choice_params, to_params
from tunesmith.serve.openai.service import Service

MAX_ANSWERS = max(MAX_PROMPTS, MAX_CHOICES)


async def answer_completion(request: Request, body: CompletionBody, service: Service) -> Response:
    """Answer, whole or streamed. Raises: ApiError for everything that can be refused before the first token."""
    model = service.engine_model(body.model)
    answering = await Answering.begin(request, service)
    try:
        asked = await service.in_worker(_ask, body, model, service, answering.run)
        answering.record.prompt_tokens = sum(len(ids) for ids in asked.prompts)
        if body.stream:
            return answering.stream(_events(body, asked, answering, service))
        content = await _whole(body, asked, answering, service)
    except BaseException:
        answering.end()
        raise
    answering.end()
    return JSONResponse(content)


@dataclass(frozen=True)
class _Asked:
    """What the engine was asked; `echoes` are the texts to repeat and their tokens, one per prompt."""

    params: SamplingParams
    prompts: list[list[int]]
    echoes: list[_Echo]
    num_choices: int


@dataclass(frozen=True)
class _Echo:
    """A prompt as it is repeated; its tokens only where their log-probabilities are asked for."""

    text: str = ""
    tokens: tuple[StreamPiece, ...] = ()


def _ask(body: CompletionBody, model: str, service: Service, run: Run) -> _Asked:
    """Tokenize and submit; in the rendering thread."""
    params = _params(body, service)
    prompts = token_lists(body.prompt, service.renderer.tokenizer, "prompt")
    num_choices = body.n or 1
    if len(prompts) * num_choices > MAX_ANSWERS:
        raise refused("n", f"{len(prompts)} prompts with {num_choices} answers each are more than {MAX_ANSWERS}")
    for ids in prompts:
        service.check_room(ids, params, "prompt")
    try:
        echoes = _echoes(body, prompts, model, service, run)
        for index in range(len(prompts) * num_choices):
            choice = choice_params(params, body.seed, index % num_choices)
            run.submit(service.engine, index, prompts[index // num_choices], choice, model)
    except UserError as error:
        raise from_user_error(error, "prompt") from None
    return _Asked(params, prompts, echoes, num_choices)


def _params(body: CompletionBody, service: Service) -> SamplingParams:
    if body.echo and body.logprobs is not None and getattr(service.engine, "read", None) is None:
        reason = "this engine does not tell those of an echoed prompt; leave out echo or logprobs"
        raise refused("logprobs", reason, UNSUPPORTED)
    if body.stream_options is not None and not body.stream:
        raise refused("stream_options", "stream_options needs stream: true")
    params = to_params(body, service.defaults, service.vocabulary_size)
    return replace(params, num_logprobs=body.logprobs)


def _echoes(body: CompletionBody, prompts: list[list[int]], model: str, service: Service, run: Run) -> list[_Echo]:
    if not body.echo:
        return [_Echo()] * len(prompts)
    if isinstance(body.prompt, str):
        texts = [body.prompt]
    elif isinstance(body.prompt[0], str):
        texts = [str(text) for text in body.prompt]
    else:
        texts = [service.renderer.decode(ids, skip_special_tokens=False) for ids in prompts]
    if body.logprobs is None:
        return [_Echo(text) for text in texts]
    echoes = []
    for text, ids in zip(texts, prompts, strict=True):
        if run.left.is_set():
            raise ClientLeft
        echoes.append(_Echo(text, _read(ids, body.logprobs, model, service)))
    return echoes


def _read(ids: list[int], num_best: int, model: str, service: Service) -> tuple[StreamPiece, ...]:
    """The tokens of a prompt with their log-probabilities."""
    read: Callable[[Sequence[int], int, str], list[Scored]] = getattr(service.engine, "read")  # noqa: B009
    scored: list[tuple[float | None, tuple[tuple[int, float], ...]]] = [(None, ())]
    scored += read(ids, num_best, model) if len(ids) > 1 else []
    return tuple(
        StreamPiece("", token_id, None, logprob, best) for token_id, (logprob, best) in zip(ids, scored, strict=True)
    )


def _head(body: CompletionBody) -> dict[str, Any]:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }


class _Choice:
    """One answer on its way: pieces in, texts with their log-probabilities out."""

    def __init__(self, asked: _Asked, index: int, service: Service, num_top: int | None) -> None:
        self._shown = ShownTokens(service.token_bytes, asked.params)
        self._logprobs = None if num_top is None else TextLogprobs(service.token_bytes, num_top)
        self.echo = asked.echoes[index // asked.num_choices]
        self._tokens = list(self.echo.tokens)
        self._is_end = False

    def take(self, piece: StreamPiece) -> None:
        if self._logprobs is not None:
            self._tokens += self._shown.add(piece)
            self._is_end = piece.finish_reason is not None

    def take_logprobs(self) -> dict[str, Any] | None:
        """The log-probabilities since the last time; None when none are asked for."""
        if self._logprobs is None:
            return None
        tokens, self._tokens = self._tokens, []
        return self._logprobs.lists(tokens, self._is_end)


async def _events(
    body: CompletionBody, asked: _Asked, answering: Answering, service: Service
) -> AsyncGenerator[dict[str, Any], None]:
    head = _head(body)
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    if with_usage:
        head["usage"] = None
    num = len(asked.prompts) * asked.num_choices
    choices = [_Choice(asked, index, service, body.logprobs) for index in range(num)]
    for index, choice in enumerate(choices if body.echo else ()):
        yield {**head, "choices": [_choice(index, choice.echo.text, choice.take_logprobs(), None)]}
    async for index, piece in answering.pieces():
        choices[index].take(piece)
        if piece.text or piece.finish_reason is not None:
            logprobs = choices[index].take_logprobs()
            yield {**head, "choices": [_choice(index, piece.text, logprobs, piece.finish_reason)]}
    if with_usage:
        yield {**head, "choices": [], "usage": usage(answering.record)}


async def _whole(body: CompletionBody, asked: _Asked, answering: Answering, service: Service) -> dict[str, Any]:
    num = len(asked.prompts) * asked.num_choices
    choices = [_Choice(asked, index, service, body.logprobs) for index in range(num)]
    texts = [choice.echo.text for choice in choices]
    reasons: list[str | None] = [None] * num
    async for index, piece in answering.pieces():
        choices[index].take(piece)
        texts[index] += piece.text
        reasons[index] = piece.finish_reason
    return {
        **_head(body),
        "choices": [
            _choice(index, texts[index], choices[index].take_logprobs(), reasons[index]) for index in range(num)
        ],
        "usage": usage(answering.record),
    }


def _choice(index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
