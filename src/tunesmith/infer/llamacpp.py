"""The engine on llama.cpp: requests share one forward pass per token, each keeps its own slot of the cache.

llama.cpp brings the scores; what an answer becomes (sampling, seeds, stop texts, forms, log-probabilities) is decided
by `answer.py`, as for the built-in engine, so settings mean the same on both. A slot remembers the tokens it holds: a
request takes the free slot that shares the longest beginning with its prompt, so the next turn of a chat reads only
what is new. Prompts are read in parts of `BATCH_TOKENS`, so a long one does not hold up the answers of others for
long. Adapters act on a whole pass, so requests for different models of one engine take turns.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ModelError, UserError
from tunesmith.infer.answer import Answer, Decoder
from tunesmith.infer.engine import (
    EngineBase,
    EngineBusyError,
    Event,
    SamplingParams,
    check_scored,
    num_new_tokens,
)
from tunesmith.infer.grammar import Grammars
from tunesmith.infer.llamacpp_native import BATCH_TOKENS, NativeModel, Piece

MAX_WAITING = 256
RETRY_AFTER_S = 2
_SUMS = ("prompt_tokens", "cached_tokens", "answer_tokens", "answers", "cancelled", "failed")
_SCORED_TOKENS = 128
"""Positions whose scores are kept at a time when a text is scored: 128 rows of a vocabulary of 150,000 are 77 MB."""


@dataclass(slots=True)
class _Slot:
    """A place in the cache: which model read which tokens there, and whether somebody uses it."""

    number: int
    model: str = ""
    ids: list[int] = field(default_factory=list)
    is_taken: bool = False


@dataclass(slots=True, eq=False)
class _Request:
    """A request; `unread` are the tokens that its slot does not hold yet."""

    prompt_ids: tuple[int, ...]
    answer: Answer
    deliver: Callable[[Event], None]
    model: str
    unread: list[int] = field(default_factory=list)
    slot: _Slot | None = None
    is_cancelled: bool = False

    def cancel(self) -> None:
        """See `Ticket.cancel`."""
        self.is_cancelled = True


class LlamaCppEngine(EngineBase):
    """Answers from a GGUF file.

    Args:
        native: the loaded file; the engine owns it from here on.
        num_slots: as `native` was made with: requests computed at the same time.
        tokenizer: turns answer ids into text; prompts come as ids.
        models: name -> GGUF adapter that makes that model, None for the file alone; the first one is the default.
    """

    def __init__(self, native: NativeModel, num_slots: int, tokenizer: Any, models: Mapping[str, Path | None]) -> None:
        self._native, self._adapters, self._decoder = native, dict(models), Decoder(tokenizer)
        self._grammars = Grammars(tokenizer)
        self._slots = [_Slot(number) for number in range(num_slots)]
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._changed = threading.Condition()
        self._using = threading.Lock()  # whoever computes
        self._active: str | None = None
        self._is_closed = False
        self._sums = dict.fromkeys(_SUMS, 0)
        self._thread = threading.Thread(target=self._work, name="llamacpp", daemon=True)
        self._thread.start()

    @property
    def models(self) -> tuple[str, ...]:
        """See `Engine.models`."""
        return tuple(self._adapters)

    @property
    def context_length(self) -> int:
        """Tokens that fit, prompt and answer together."""
        return self._native.context_length

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        deliver: Callable[[Event], None],
        model: str | None = None,
    ) -> _Request:
        """See `Engine.submit`."""
        name = self._named(model)
        room = num_new_tokens(len(prompt_ids), params, self.context_length)
        answer = Answer(prompt_ids, params, room, self._decoder, self._grammars)
        request = _Request(tuple(prompt_ids), answer, deliver, name)
        with self._changed:
            if self._is_closed:
                raise ModelError("the engine is closed")
            if len(self._waiting) >= MAX_WAITING:
                raise EngineBusyError(len(self._waiting), RETRY_AFTER_S)
            self._waiting.append(request)
            self._changed.notify_all()
        return request

    def score(self, ids: Sequence[int], num_prompt_tokens: int, model: str | None = None) -> list[float]:
        """See `Engine.score`: in a free slot, between the steps of the requests that run."""
        check_scored(len(ids), num_prompt_tokens, self.context_length)
        name = self._named(model)
        with self._changed:
            self._changed.wait_for(lambda: any(not slot.is_taken for slot in self._slots))
            slot = next(slot for slot in self._slots if not slot.is_taken)
            slot.is_taken = True
        try:
            with self._using:
                return self._score(slot, name, list(ids), num_prompt_tokens)
        finally:
            with self._changed:
                slot.is_taken = False
                self._changed.notify_all()

    def figures(self) -> Mapping[str, float]:
        """See `Engine.figures`."""
        sums = {f"{name}_total": count for name, count in self._sums.items()}
        return {"running": len(self._running), "waiting": len(self._waiting), **sums}

    def close(self) -> None:
        """See `Engine.close`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        with self._using:
            self._native.close()

    def _named(self, model: str | None) -> str:
        name = model or self.models[0]
        if name not in self._adapters:
            raise ModelError(f"there is no model '{name}' here", fix=f"known: {', '.join(self.models)}")
        return name

    def _work(self) -> None:
        """The engine's thread. Whatever ends it, nobody is left waiting."""
        try:
            self._serve()
        finally:
            with self._changed:
                self._is_closed = True
            for request in (*self._running, *self._waiting):
                request.deliver(ModelError("the engine was closed"))

    def _serve(self) -> None:
        """Admit, compute one step for one model, deliver, and again, until closed."""
        for turn in itertools.count():
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._running or self._can_admit())
                if self._is_closed:
                    break
                self._admit()
            names = sorted({request.model for request in self._running})
            name = names[turn % len(names)]
            with self._using:
                self._step([request for request in self._running if request.model == name], name)

    def _can_admit(self) -> bool:
        return bool(self._waiting) and any(not slot.is_taken for slot in self._slots)

    def _admit(self) -> None:
        """Give waiting requests the free slots; called with the condition held."""
        while self._can_admit():
            request = self._waiting.popleft()
            free = [slot for slot in self._slots if not slot.is_taken]
            shared = [_num_shared(slot, request) for slot in free]
            best = max(shared)
            # where nothing is shared, a slot that remembers the least, so that conversations stay where they are
            slot = free[shared.index(best)] if best else min(free, key=lambda slot: len(slot.ids))
            slot.is_taken, request.slot = True, slot
            self._running.append(request)
            kept = self._keep(slot, request.model, best)
            request.unread = list(request.prompt_ids[kept:])
            self._sums["prompt_tokens"] += len(request.prompt_ids)
            self._sums["cached_tokens"] += kept

    def _keep(self, slot: _Slot, model: str, count: int) -> int:
        """Let a slot forget all but its first `count` tokens; returns how many it could keep."""
        with self._using:
            if not self._native.forget(slot.number, count):
                count = 0  # a recurrent or sliding cache cannot be cut in the middle
                self._native.forget(slot.number)
        slot.model, slot.ids = model, slot.ids[:count]
        return count

    def _step(self, requests: Sequence[_Request], name: str) -> None:
        """One pass: the next part of prompts, the next token of answers."""
        for request in [request for request in requests if request.is_cancelled]:
            self._sums["cancelled"] += 1
            self._end(request)
        requests = [request for request in requests if not request.is_cancelled]
        # answers first: a prompt gets what is left of the pass
        requests = sorted(requests, key=lambda request: len(request.unread))
        room, taking = BATCH_TOKENS, []
        for request in requests:
            count = min(len(request.unread), room)
            taking += [(request, count)] if count else []
            room -= count
        if not taking:
            return
        try:
            self._use(name)
            rows = self._native.decode([_piece(request, count) for request, count in taking])
        except ModelError as error:
            for request, _ in taking:
                self._fail(request, error)
            return
        for (request, count), scores in zip(taking, rows, strict=True):
            assert request.slot is not None
            request.slot.ids += request.unread[:count]
            del request.unread[:count]
            if not request.unread:
                self._answer(request, torch.from_numpy(scores[-1]))

    def _answer(self, request: _Request, logits_V: torch.Tensor) -> None:
        try:
            piece = request.answer.take(logits_V)
        except UserError as error:
            self._fail(request, error)
            return
        request.unread = [piece.token_id]
        self._sums["answer_tokens"] += 1
        if piece.finish_reason is not None:
            self._sums["answers"] += 1
            self._end(request)
        request.deliver(piece)

    def _fail(self, request: _Request, error: Exception) -> None:
        assert request.slot is not None
        self._sums["failed"] += 1
        self._native.forget(request.slot.number)
        request.slot.ids.clear()
        self._end(request)
        request.deliver(error)

    def _end(self, request: _Request) -> None:
        with self._changed:
            self._running.remove(request)
            assert request.slot is not None
            request.slot.is_taken = False
            self._changed.notify_all()

    def _use(self, name: str) -> None:
        if self._active != name:
            self._native.use_adapter(self._adapters[name])
            self._active = name

    def _score(self, slot: _Slot, name: str, ids: list[int], num_prompt_tokens: int) -> list[float]:
        self._use(name)
        self._native.forget(slot.number)
        slot.model, slot.ids = name, []
        scores: list[float] = []
        for first in range(0, len(ids) - 1, _SCORED_TOKENS):
            part = ids[first : min(first + _SCORED_TOKENS, len(ids) - 1)]
            logits_TV = torch.from_numpy(self._native.decode([Piece(slot.number, first, part, all_logits=True)])[0])
            targets_T = torch.tensor(ids[first + 1 : first + 1 + len(part)])
            scores += logits_TV.log_softmax(-1).gather(-1, targets_T[:, None])[:, 0].tolist()
            slot.ids += part
        return scores[num_prompt_tokens - 1 :]


def _piece(request: _Request, count: int) -> Piece:
    assert request.slot is not None
    return Piece(request.slot.number, len(request.slot.ids), request.unread[:count])


def _num_shared(slot: _Slot, request: _Request) -> int:
    """Tokens at the start of a prompt that a slot holds; the last one is read again, for its scores."""
    if slot.model != request.model:
        return 0
    pairs = zip(slot.ids, request.prompt_ids[:-1], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
