"""What every inference engine offers, and the plain values that go in and come out.

An engine turns prompt token ids into answer tokens. It never sees messages: the renderer makes the ids, so that
training and inference cannot drift apart. No torch here: chat, an API or batch prediction can be written against
this file, and other engines (vLLM, SGLang, llama.cpp) can implement it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError

FinishReason = Literal["stop", "length"]
"""`stop`: the model produced a stop token. `length`: the token limit or the end of the context came first."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when to end. Names and meaning are those of the configuration.

    `max_new_tokens` 0 means: up to `max_length` tokens, prompt included. `top_k` 0 and `top_p` 1 switch those filters
    off. `seed` None draws a new one each time. Answers are greedy when `do_sample` is false or `temperature` is 0.
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

    def __post_init__(self) -> None:
        bounds = (
            ("max_new_tokens", self.max_new_tokens >= 0, "0 or more"),
            ("max_length", self.max_length >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 or more (0 is greedy)"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0 (1 is off)"),
        )
        for name, holds, allowed in bounds:
            if not holds:
                raise ConfigError(f"{name} is {getattr(self, name)}, allowed is {allowed}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken each time."""
        return not self.do_sample or self.temperature == 0


def sampling_from_config(config: Config, stop_ids: Sequence[int]) -> SamplingParams:
    """The sampling settings of a configuration, with the renderer's stop tokens."""
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


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """One generated token. `text` is what became readable with it: empty inside a multi-byte character.

    The last piece carries `finish_reason`; the stop token itself has no text.
    """

    text: str
    token_id: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. `token_ids` are all tokens produced, the stop token included; `text` does not show it."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int


class Engine(Protocol):
    """Anything that can continue a sequence of token ids."""

    @property
    def context_length(self) -> int:
        """Tokens that fit, prompt and answer together."""

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Generator[StreamPiece, None, None]:
        """Yield the answer token by token; closing the generator stops the work. Raises: ModelError if too long."""

    def generate(self, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        """The whole answer at once. Raises: ModelError when the prompt fills the context."""


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
