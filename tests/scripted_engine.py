"""An engine that answers what a test tells it to, token by token: for everything that stands on an engine.

The answers are texts; each becomes the tokens of the tokenizer, followed by the stop token. What it was asked is kept
in `asked`. With `hold` set, a token is delivered only when the test calls `release`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.infer.engine import EngineBase, Event, SamplingParams, StreamPiece
from tunesmith.infer.stream import IncrementalDetokenizer


class ScriptedTicket:
    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class ScriptedEngine(EngineBase):
    """Gives `answers` one after the other (the last one again and again)."""

    def __init__(
        self, tokenizer: Any, answers: Sequence[str], models: Sequence[str] = ("tuned",), hold: bool = False
    ) -> None:
        self.tokenizer, self.answers, self.models, self.hold = tokenizer, list(answers), tuple(models), hold
        self.context_length = 4096
        self.asked: list[tuple[tuple[int, ...], SamplingParams, str | None]] = []
        self.tickets: list[ScriptedTicket] = []
        self.num_delivered = 0
        self._permits = threading.Semaphore(0)

    def release(self, tokens: int = 1) -> None:
        for _ in range(tokens):
            self._permits.release()

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        deliver: Callable[[Event], None],
        model: str | None = None,
    ) -> ScriptedTicket:
        text = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append((tuple(prompt_ids), params, model))
        ticket = ScriptedTicket()
        self.tickets.append(ticket)
        threading.Thread(target=self._say, args=(text, params, deliver, ticket), daemon=True).start()
        return ticket

    def _say(self, text: str, params: SamplingParams, deliver: Callable[[Event], None], ticket: ScriptedTicket) -> None:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        show = IncrementalDetokenizer(lambda part: self.tokenizer.decode(part, clean_up_tokenization_spaces=False))
        logprob = None if params.num_logprobs is None else -0.5
        for count, token_id in enumerate(ids, 1):
            if self.hold:
                self._permits.acquire()
            if ticket.cancelled.is_set():
                return
            is_last = count == params.max_new_tokens
            shown = show.add(token_id) + (show.flush() if is_last else "")
            self.num_delivered += 1
            deliver(StreamPiece(shown, token_id, "length" if is_last else None, logprob))
            if is_last:
                return
        deliver(StreamPiece(show.flush(), params.stop_ids[0] if params.stop_ids else 0, "stop", logprob))

    def score(self, ids: Sequence[int], num_prompt_tokens: int, model: str | None = None) -> list[float]:
        return [-0.5] * (len(ids) - num_prompt_tokens)

    def figures(self) -> Mapping[str, float]:
        return {"running": 0, "waiting": 0}

    def close(self) -> None:
        for ticket in self.tickets:
            ticket.cancel()
