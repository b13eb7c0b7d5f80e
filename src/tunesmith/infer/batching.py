"""The built-in engine: many requests at once, each answered as if it were alone.

One thread owns the model. It goes round: let waiting requests in, read one helping of prompts, give every running
answer its next token, and again. A request that arrives joins at the next round; one whose client has left is gone
before the next token. Reading and answering are passes of two fixed widths (`model/ragged.py`), so that an answer is
the same to the bit alone and among others, and with or without the prefix cache.

Adapters that share a base are lanes: a pass serves one lane, and the lanes take turns.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import torch

from tunesmith.errors import ModelError
from tunesmith.infer.answer import Answer, Decoder
from tunesmith.infer.engine import (
    EngineBase,
    EngineBusyError,
    Event,
    SamplingParams,
    Scored,
    check_scored,
    num_new_tokens,
)
from tunesmith.infer.grammar import Grammars
from tunesmith.infer.lanes import Lanes
from tunesmith.infer.prefix import PrefixCache
from tunesmith.infer.request import BatchLimits, Request
from tunesmith.infer.sampling import scored
from tunesmith.model.ragged import Layout, Piece, SequenceCache, lay_out, num_layers_of, run_hidden, run_pieces
from tunesmith.model.rope import context_length

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class BatchEngine(EngineBase):
    """Continuous batching over a transformers model that takes ragged rows.

    Args:
        lanes: the model and the names under which its adapters answer.
        tokenizer: turns answer ids into text.
        limits: sizes.
    """

    def __init__(self, lanes: Lanes, tokenizer: Any, limits: BatchLimits | None = None) -> None:
        self.limits = limits or BatchLimits()
        self.lanes = lanes
        self._decoder = Decoder(tokenizer)
        self._grammars = Grammars(tokenizer)
        self._context_length = context_length(lanes.model.config)
        self._num_layers = num_layers_of(lanes.model.config)
        self._prefixes = PrefixCache(self.limits.piece_tokens, self.limits.prefix_bytes)
        self._waiting: deque[Request] = deque()
        self._jobs: deque[Callable[[], None]] = deque()
        self._running: list[Request] = []
        self._sums: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="tunesmith-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread that is cut off inside torch would abort the process

    @property
    def models(self) -> tuple[str, ...]:
        """See `Engine.models`."""
        return self.lanes.names

    @property
    def context_length(self) -> int:
        """Tokens that fit, prompt and answer together."""
        return self._context_length

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        deliver: Callable[[Event], None],
        model: str | None = None,
    ) -> Request:
        """See `Engine.submit`."""
        name = self.lanes.check(model)
        room = num_new_tokens(len(prompt_ids), params, self._context_length)
        if len(prompt_ids) > self.limits.max_cache_tokens:
            raise ModelError(f"the prompt has {len(prompt_ids)} tokens, memory holds {self.limits.max_cache_tokens}")
        room = min(room, self.limits.max_cache_tokens - len(prompt_ids))
        request = Request(
            model=name,
            prompt_ids=tuple(prompt_ids),
            answer=Answer(prompt_ids, params, room, self._decoder, self._grammars),
            room=room,
            deliver=deliver,
            arrived=time.monotonic(),
            cache=SequenceCache(self._num_layers),
            keys=self._prefixes.keys(name, prompt_ids),
        )
        with self._changed:
            if self._closing:
                raise ModelError("the engine is closed")
            num_waiting = sum(not other.cancelled.is_set() for other in self._waiting)
            if num_waiting >= self.limits.max_waiting:
                raise EngineBusyError(num_waiting, self._seconds_until_room())
            self._waiting.append(request)
            self._changed.notify()
        return request

    def score(self, ids: Sequence[int], num_prompt_tokens: int, model: str | None = None) -> list[float]:
        """See `Engine.score`."""
        check_scored(len(ids), num_prompt_tokens, self._context_length)
        scored = self.do(partial(self._score, tuple(ids), num_prompt_tokens, self.lanes.check(model), 0))
        return [logprob for logprob, _ in scored]

    def read(self, ids: Sequence[int], num_best: int, model: str | None = None) -> list[Scored]:
        """Each token of `ids` but the first, with the `num_best` likeliest in its place.

        Raises: ModelError when the text does not fit the context.
        """
        check_scored(len(ids), 1, self._context_length)
        return self.do(partial(self._score, tuple(ids), 1, self.lanes.check(model), num_best))

    def embed(self, ids: Sequence[int], model: str | None = None) -> list[float]:
        """A vector for a text: the mean of the last hidden states, of length 1. For likeness by the inner product.

        A model that was trained to chat was not trained to do this; retrieval models do it better.

        Raises: ModelError when the text does not fit the context.
        """
        check_scored(len(ids), len(ids), self._context_length)
        hidden_TD = self.do(partial(self.hidden, tuple(ids), self.lanes.check(model)))
        mean_D = hidden_TD.mean(0)
        vector: list[float] = (mean_D / mean_D.norm()).tolist()
        return vector

    def figures(self) -> Mapping[str, float]:
        """See `Engine.figures`. The sums are named `..._total`."""
        with self._changed:
            sums = dict(self._sums)
            return {
                "running": len(self._running),
                "waiting": len(self._waiting),
                "cache_tokens": sum(request.cache.length for request in self._running),
                "prefix_cache_bytes": self._prefixes.num_bytes,
                **{f"{name}_total": sums.get(name, 0) for name in _SUMS},
            }

    def close(self) -> None:
        """See `Engine.close`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=60)
        atexit.unregister(self.close)

    # ---- below: only the engine's own thread, but for `do`

    def do(self, job: Callable[[], T]) -> T:
        """Run a job in the engine's thread, between two passes."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                if self._closing:
                    raise ModelError("the engine is closed")
                result.set_result(job())
            except (ModelError, RuntimeError, ValueError) as error:
                result.set_exception(error)
            finally:
                if not result.done():
                    result.set_exception(ModelError("the engine has failed; its thread has ended"))

        with self._changed:
            if self._closing:
                raise ModelError("the engine is closed")
            self._jobs.append(run)
            self._changed.notify()
        return result.result()

    def _work(self) -> None:
        try:
            self._go_round()
        finally:  # a fault of the engine's own too: nobody is left waiting
            self._end_all()

    def _go_round(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._jobs or self._closing):
                    self._changed.wait()
                if self._closing:
                    return
                jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
                self._drop_cancelled()
                self._admit()
            for job in jobs:
                job()
            self._read_prompts()
            self._answer()

    def _drop_cancelled(self) -> None:
        gone = [r for r in (*self._waiting, *self._running) if r.cancelled.is_set()]
        self._sums["cancelled"] += len(gone)
        if gone:
            self._waiting = deque(r for r in self._waiting if r not in gone)
            self._running = [r for r in self._running if r not in gone]
        for request in gone:
            request.release()

    def _admit(self) -> None:
        """Let requests in, first come first served, as long as rows and memory last."""
        held = sum(request.num_tokens for request in self._running)
        while self._waiting and len(self._running) < self.limits.max_running:
            request = self._waiting[0]
            held += request.num_tokens
            if self._running and held > self.limits.max_cache_tokens:
                return
            self._running.append(self._waiting.popleft())
            self._sums["prompt_tokens"] += len(request.prompt_ids)

    def _read_prompts(self) -> None:
        """One pass over pieces of prompts, of the lane whose request has waited longest."""
        reading = [request for request in self._running if request.is_reading]
        planned, used = list[tuple[Request, int, int]](), 0
        for request in reading:
            if request.model != reading[0].model or len(planned) >= self.limits.answer_rows:
                continue
            for start, end in self._pieces_to_read(request):
                if used + end - start > self.limits.reading_rows:
                    break
                planned.append((request, start, end))
                used += end - start
        if planned:
            self._guarded([request for request, _, _ in planned], partial(self._read, planned))

    def _pieces_to_read(self, request: Request) -> Iterator[tuple[int, int]]:
        """First and end token of each piece that is still to be read; what is known already is taken first."""
        if request.num_read == 0:
            # the last token of a prompt is always read: its scores are the first of the answer
            request.num_read = self._prefixes.restore(request.keys, request.cache, len(request.prompt_ids) - 1)
            self._sums["cached_tokens"] += request.num_read
        return _cut(request.num_read, len(request.prompt_ids), self.limits.piece_tokens)

    def _read(self, planned: list[tuple[Request, int, int]]) -> None:
        pieces = [Piece(request.cache, request.prompt_ids[start:end], start) for request, start, end in planned]
        layout = lay_out(pieces, self.limits.reading_rows)
        whole = [end == len(request.prompt_ids) for request, _, end in planned]
        wanted = [bound[1] - 1 for bound, is_whole in zip(layout.bounds, whole, strict=True) if is_whole]
        with self.lanes.acting(planned[0][0].model) as model:
            logits_NV = run_pieces(model, layout, wanted, self.limits.answer_rows)
        for request, start, end in planned:
            request.num_read = end
            if end - start == self.limits.piece_tokens:
                self._prefixes.keep(request.keys[start // self.limits.piece_tokens], request.cache, start)
        done = [request for (request, _, _), is_whole in zip(planned, whole, strict=True) if is_whole]
        self._give(done, logits_NV)

    def _answer(self) -> None:
        """The next tokens of every answer: passes of one lane each, as many as it takes."""
        answering = [request for request in self._running if not request.is_reading]
        for name in dict.fromkeys(request.model for request in answering):
            lane = [request for request in answering if request.model == name]
            for start in range(0, len(lane), self.limits.answer_rows):
                together = lane[start : start + self.limits.answer_rows]
                self._guarded(together, partial(self._step, together))

    def _step(self, requests: list[Request]) -> None:
        """One pass for some answers; rows that they leave free are given guesses of what comes after."""
        width = self.limits.answer_rows
        num_guesses = min(width // len(requests) - 1, self.limits.max_guesses)
        pieces = [request.pieces(num_guesses) for request in requests]
        layout = lay_out([piece for own in pieces for piece in own], width)
        with self.lanes.acting(requests[0].model) as model:
            logits_NV = run_pieces(model, layout, range(len(layout.pieces)), width)
        end = 0
        for request, own in zip(requests, pieces, strict=True):
            end += len(own)
            self._take_while_guessed(request, own, logits_NV[end - len(own) : end])

    def _take_while_guessed(self, request: Request, pieces: list[Piece], logits_NV: torch.Tensor) -> None:
        """Tokens of the answer, as long as the one that was chosen is the one that the next row guessed."""
        num_before = len(request.answer.token_ids)
        for piece, logits_V in zip(pieces, logits_NV, strict=True):
            is_over = request not in self._running or request.cancelled.is_set()
            if is_over or piece.ids[0] != request.answer.token_ids[-1]:
                break
            request.cache.length = piece.start + 1
            self._give([request], [logits_V])
        self._sums["guessed_tokens"] += len(pieces) - 1
        self._sums["guessed_right_tokens"] += max(len(request.answer.token_ids) - num_before - 1, 0)

    def _give(self, requests: Iterable[Request], logits_NV: Any) -> None:
        for request, logits_V in zip(requests, logits_NV, strict=True):
            try:
                piece = request.answer.take(logits_V)
            except PASS_ERRORS as error:  # its own form failed, say: the others of the pass go on
                self._fail(request, error)
                continue
            self._sums["answer_tokens"] += 1
            if piece.finish_reason is not None:
                self._sums["answers"] += 1
                self._remove(request)
            if not request.cancelled.is_set():
                request.deliver(piece)

    def _guarded(self, requests: list[Request], work: Callable[[], None]) -> None:
        """Do a pass; what goes wrong in it ends the requests of the pass, and nothing else."""
        try:
            work()
        except PASS_ERRORS as error:
            _LOG.warning("a pass failed: %s: %s", type(error).__name__, str(error).split("\n")[0])
            for request in dict.fromkeys(requests):
                self._fail(request, error)

    def _fail(self, request: Request, error: Exception) -> None:
        self._sums["failed"] += 1
        self._remove(request)
        request.deliver(error.with_traceback(None))  # its frames hold what the pass held

    def _remove(self, request: Request) -> None:
        with self._changed:
            self._running = [other for other in self._running if other is not request]
        request.release()

    def _end_all(self) -> None:
        with self._changed:
            self._closing = True
            left = [*self._running, *self._waiting]
            self._running, self._waiting = [], deque()
            jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            job()  # says that the engine is closed
        for request in left:
            request.release()
            request.deliver(ModelError("the engine was closed before the answer was whole"))

    def _seconds_until_room(self) -> int:
        """How long the queue needs to shorten, by what the engine has done so far."""
        oldest = min((request.arrived for request in self._running), default=time.monotonic())
        return max(1, min(60, round(time.monotonic() - oldest)))

    def _score(self, ids: tuple[int, ...], num_prompt_tokens: int, name: str, num_best: int) -> list[Scored]:
        """Log-probabilities, piece by piece, so that a long text needs no more logits than a piece has."""
        scores: list[Scored] = []
        for layout, start, end in self._pieces_of(ids[:-1]):  # nothing comes after the last token
            wanted = range(max(num_prompt_tokens - 1 - start, 0), end - start)
            with self.lanes.acting(name) as model:
                logits_NV = run_pieces(model, layout, wanted, max(len(wanted), 1))
            targets_N = torch.tensor(ids[start + wanted.start + 1 : end + 1], device=logits_NV.device)
            scores += scored(logits_NV, targets_N, num_best) if len(wanted) else []
        return scores

    def hidden(self, ids: tuple[int, ...], name: str) -> torch.Tensor:
        """The last hidden states (T, D) of a text, float32."""
        parts = []
        for layout, _, _ in self._pieces_of(ids):
            with self.lanes.acting(name) as model:
                parts.append(run_hidden(model, layout).float())
        return torch.cat(parts)

    def _pieces_of(self, ids: tuple[int, ...]) -> Iterator[tuple[Layout, int, int]]:
        """A text alone, cut as prompts are: layouts, each with its first and its end token."""
        cache, rows = SequenceCache(self._num_layers), self.limits.reading_rows
        for start in range(0, len(ids), rows):
            end = min(start + rows, len(ids))
            cuts = _cut(start, end, self.limits.piece_tokens)
            yield lay_out([Piece(cache, ids[first:last], first) for first, last in cuts], rows), start, end


def _cut(start: int, end: int, piece_tokens: int) -> Iterator[tuple[int, int]]:
    """Pieces of the tokens [start, end), cut at multiples of `piece_tokens`."""
    while start < end:
        stop = min((start // piece_tokens + 1) * piece_tokens, end)
        yield start, stop
        start = stop


PASS_ERRORS = (RuntimeError, ValueError, IndexError, MemoryError, ModelError)
"""What can go wrong for one pass without the engine being at fault."""
_SUMS = (
    *("prompt_tokens", "cached_tokens", "answer_tokens", "guessed_tokens", "guessed_right_tokens"),
    *("answers", "cancelled", "failed"),
)
