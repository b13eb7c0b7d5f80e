"""What every inference engine offers, and the plain values that go in and come out.

An engine turns prompt token ids into answer tokens. It never sees messages: the renderer makes the ids, so that
training and inference cannot drift apart. No torch here: chat, an API or batch prediction can be written against
this file, and other engines (vLLM, SGLang, llama.cpp) implement it.

The one primitive is `submit`: a request goes in, its tokens come back one by one through a callback, from whatever
thread the engine works in; `Ticket.cancel` ends it. `stream` and `generate` are made of it (`EngineBase`).
"""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError

FinishReason = Literal["stop", "length"]
"""`stop`: the model produced a stop token. `length`: the token limit or the end of the context came first."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A form that an answer must have: `text` is a JSON schema, a regular expression, or a grammar in Lark syntax.

    In a Lark grammar a special token of the vocabulary is written `<name>`, and `%json {...}` stands for a schema.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when to end. Names and meaning are those of the configuration.

    `max_new_tokens` 0 means: up to `max_length` tokens, prompt included. `top_k` 0 and `top_p` 1 switch those filters
    off. `seed` None draws a new one each time. Answers are greedy when `do_sample` is false or `temperature` is 0.
    `visible_ids`: special tokens that stay in the text even when `skip_special_tokens` leaves the others out: markers
    of thoughts and tool calls, which the renderer names (`Renderer.visible_special_ids`).

    `presence_penalty` and `frequency_penalty` are OpenAI's: subtracted from the score of each token that the answer
    (not the prompt) holds already, once and once per occurrence. `logit_bias`: (token id, what is added to its score).
    `stop`: texts that end the answer, wherever token borders fall; neither they nor what follows is shown.
    `num_logprobs`: None for none, else how many alternatives are told beside each token's own log-probability, which
    is that of the model before penalties, temperature and filters.
    """

    max_new_tokens: int = 1024
    max_length: int = 1024
    do_sample: bool = True
    temperature: float = 0.95
    top_p: float = 0.7
    top_k: int = 50
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    skip_special_tokens: bool = True
    visible_ids: tuple[int, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        bounds = (
            ("max_new_tokens", self.max_new_tokens >= 0, "0 or more"),
            ("max_length", self.max_length >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 or more (0 is greedy)"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0 (1 is off)"),
            ("stop", all(self.stop), "texts of at least one character"),
        )
        for name, holds, allowed in bounds:
            if not holds:
                raise ConfigError(f"{name} is {getattr(self, name)}, allowed is {allowed}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken each time."""
        return not self.do_sample or self.temperature == 0


def sampling_from_config(config: Config, stop_ids: Sequence[int], visible_ids: Sequence[int] = ()) -> SamplingParams:
    """The sampling settings of a configuration, with the renderer's stop tokens and those that stay visible."""
    return SamplingParams(
        max_new_tokens=config.max_new_tokens,
        max_length=config.max_length,
        do_sample=config.do_sample,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        repetition_penalty=config.repetition_penalty,
        seed=config.seed,
        stop_ids=tuple(stop_ids),
        skip_special_tokens=config.skip_special_tokens,
        visible_ids=tuple(visible_ids),
    )


def num_new_tokens(num_prompt_tokens: int, params: SamplingParams, context_length: int) -> int:
    """How many tokens the answer to a prompt may have.

    Raises: ModelError when that is none: the prompt is empty or fills the context. It is never cut.
    """
    if num_prompt_tokens == 0:
        raise ModelError("the prompt is empty: there is nothing to continue")
    limit, name = context_length, "the model's context"
    if params.max_new_tokens == 0 and params.max_length < limit:
        limit, name = params.max_length, "max_length"
    room = limit - num_prompt_tokens
    if room < 1:
        raise ModelError(
            f"the prompt has {num_prompt_tokens} tokens; with an answer it does not fit {name}, {limit} tokens",
            why="It is not cut silently: the model would answer something else.",
            fix="Shorten the message, or start a new conversation (/clear in the terminal chat).",
        )
    return min(params.max_new_tokens, room) if params.max_new_tokens else room


def check_scored(num_tokens: int, num_prompt_tokens: int, context_length: int) -> None:
    """Raises: ModelError when such a sequence cannot be scored (`Engine.score`)."""
    if not 0 < num_prompt_tokens <= num_tokens:
        raise ModelError("there is nothing before the first token that is to be scored, so it has no probability")
    if num_tokens > context_length:
        raise ModelError(f"{num_tokens} tokens do not fit the model's context, {context_length} tokens")


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """One generated token. `text` is what became readable with it.

    It is empty inside a multi-byte character, and while the end of the text could still become a stop text.
    The last piece carries `finish_reason`; the stop token itself has no text. `logprob` and `alternatives`
    (token id, log-probability; best first) are there when they were asked for.
    """

    text: str
    token_id: int
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. `token_ids` are all tokens produced, the stop token included; `text` does not show it."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int


class EngineBusyError(ModelError):
    """The queue of an engine is full: try again after `retry_after` seconds."""

    def __init__(self, num_waiting: int, retry_after: int) -> None:
        super().__init__(f"{num_waiting} requests are waiting already", fix=f"try again in {retry_after} s")
        self.retry_after = retry_after


Event = StreamPiece | Exception
"""What a request delivers: pieces, the last one with a `finish_reason`; or one exception, which also ends it."""


class Ticket(Protocol):
    """A request on its way."""

    def cancel(self) -> None:
        """End it: no further token is computed for it, at most one more piece is delivered. Idempotent."""


class Engine(Protocol):
    """Anything that can continue a sequence of token ids.

    `model` chooses among the models that one engine holds: names of `models`, None for the first. An engine holds
    several when adapters share a base.
    """

    @property
    def models(self) -> tuple[str, ...]:
        """Names of what it can answer with; the first one is what the configuration means by "the model"."""

    @property
    def context_length(self) -> int:
        """Tokens that fit, prompt and answer together."""

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        deliver: Callable[[Event], None],
        model: str | None = None,
    ) -> Ticket:
        """Queue a request and return at once; `deliver` is called from the engine's thread and must not block.

        Raises:
            ModelError: the prompt is empty or leaves no room for an answer; the grammar cannot be read.
            EngineBusyError: the queue is full.
        """

    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, model: str | None = None
    ) -> Generator[StreamPiece, None, None]:
        """Yield the answer token by token; closing the generator stops the work. Raises: as `submit`."""

    def generate(self, prompt_ids: Sequence[int], params: SamplingParams, model: str | None = None) -> Completion:
        """The whole answer at once. Raises: as `submit`."""

    def score(self, ids: Sequence[int], num_prompt_tokens: int, model: str | None = None) -> list[float]:
        """Log-probability of each of `ids[num_prompt_tokens:]` after all tokens before it.

        Raises: ModelError when `ids` do not fit the context, or there is no token before the first one scored.
        """

    def figures(self) -> Mapping[str, float]:
        """What the engine is doing, for a page of metrics: `running`, `waiting`, and sums since it started."""

    def close(self) -> None:
        """End all requests and give the memory back. Idempotent."""


Scored = tuple[float, tuple[tuple[int, float], ...]]
"""The log-probability of a token, and the likeliest in its place: (token, log-probability), best first."""


class EngineBase(ABC):
    """`stream` and `generate` for an engine that has `submit`."""

    @abstractmethod
    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        deliver: Callable[[Event], None],
        model: str | None = None,
    ) -> Ticket:
        """See `Engine.submit`."""

    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, model: str | None = None
    ) -> Generator[StreamPiece, None, None]:
        """See `Engine.stream`. What is wrong with the request is raised here, before the first piece is asked for."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        return _read(events, self.submit(prompt_ids, params, events.put, model))

    def generate(self, prompt_ids: Sequence[int], params: SamplingParams, model: str | None = None) -> Completion:
        """See `Engine.generate`."""
        return collect(self.stream(prompt_ids, params, model), len(prompt_ids))


def _read(events: queue.SimpleQueue[Event], ticket: Ticket) -> Generator[StreamPiece, None, None]:
    try:
        while True:
            event = events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if event.finish_reason is not None:
                return
    finally:
        ticket.cancel()


def collect(pieces: Iterable[StreamPiece], num_prompt_tokens: int) -> Completion:
    """Join a stream into one answer."""
    taken = list(pieces)
    reason = taken[-1].finish_reason
    assert reason is not None, "an engine's last piece says why it ended"
    return Completion(
        text="".join(piece.text for piece in taken),
        token_ids=tuple(piece.token_id for piece in taken),
        finish_reason=reason,
        num_prompt_tokens=num_prompt_tokens,
    )
