"""What the batching engine keeps of each request, and the sizes it works with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from tunesmith.infer.answer import Answer
from tunesmith.infer.draft import Guesses
from tunesmith.infer.engine import Event
from tunesmith.model.ragged import Piece, SequenceCache


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Sizes of the engine; those of passes are part of how numbers round.

    Attributes:
        answer_rows: tokens of a pass that answers: so many answers share it.
        piece_tokens: prompts are cut at multiples of this.
        reading_rows: tokens of a pass that reads prompts; a multiple of `piece_tokens`.
        max_running: answers on their way at a time.
        max_waiting: requests that may wait; more are refused.
        max_cache_tokens: prompt and answer tokens of all running requests together.
        prefix_bytes: memory for beginnings of prompts.
        max_guesses: tokens of one answer that spare rows of a pass may guess. (On the demo model a row costs 1 ms, a
            pass 45 ms, and half of the guesses hold.)
    """

    answer_rows: int = 16
    piece_tokens: int = 32
    reading_rows: int = 128
    max_running: int = 64
    max_waiting: int = 256
    max_cache_tokens: int = 1 << 20
    prefix_bytes: int = 1 << 28
    max_guesses: int = 4


@dataclass(eq=False)
class Request:
    """A request from its arrival to its last token; it is its own ticket."""

    model: str
    prompt_ids: tuple[int, ...]
    answer: Answer
    room: int
    deliver: Callable[[Event], None]
    arrived: float
    cache: SequenceCache
    keys: list[bytes]
    num_read: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Give the memory back: who asked may hold the ticket for as long as they like."""
        self.cache = SequenceCache(0)
        self.__dict__.pop("guesses", None)

    def cancel(self) -> None:
        """See `Ticket.cancel`."""
        self.cancelled.set()

    @property
    def num_tokens(self) -> int:
        """Tokens that it may come to hold."""
        return len(self.prompt_ids) + self.room

    @property
    def is_reading(self) -> bool:
        """Whether some of the prompt is still to be read."""
        return self.num_read < len(self.prompt_ids)

    @cached_property
    def guesses(self) -> Guesses:
        """What may come next, by the text up to the last time that somebody guessed."""
        return Guesses(self.prompt_ids)

    def guess(self, num: int) -> list[int]:
        """At most `num` tokens that may come next. Costs nothing while no row is free for guesses."""
        if num < 1:
            return []
        self.guesses.extend(self.answer.token_ids[len(self.guesses) - len(self.prompt_ids) :])
        return self.guesses.next(num)

    def pieces(self, num_guesses: int) -> list[Piece]:
        """The last token of the answer, and at most so many guesses after it, each a piece of its own."""
        num_done = len(self.answer.token_ids)
        guessed = self.guess(min(num_guesses, self.room - num_done - 1))
        start = len(self.prompt_ids) + num_done - 1
        ids = [self.answer.token_ids[-1], *guessed]
        return [Piece(self.cache, [token_id], start + i) for i, token_id in enumerate(ids)]
