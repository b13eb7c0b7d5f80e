"""An engine whose model runs in a server of its own: token ids go out, token ids come back.

Text is never sent, so a prompt has the tokens that it had in training; and the text of an answer is made here from its
tokens, by the same detokenizer and stop scanner as everywhere. What is special about vLLM or SGLang (how a request is
written, what an event says) is a `Dialect`. Every request has a thread that reads its stream.
"""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tunesmith.errors import ModelError
from tunesmith.infer.engine import (
    EngineBase,
    EngineBusyError,
    Event,
    FinishReason,
    SamplingParams,
    StreamPiece,
    num_new_tokens,
)
from tunesmith.infer.server_process import Address, ServerProcess
from tunesmith.infer.stop import StopScanner
from tunesmith.infer.stream import IncrementalDetokenizer
from tunesmith.infer.wire import Call

MAX_RUNNING, MAX_WAITING = 256, 1024
RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token as a server reports it."""

    id: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What one event says: the new tokens, and why the answer ended, if it did."""

    tokens: tuple[Token, ...]
    reason: FinishReason | None


class Dialect(Protocol):
    """How one kind of server is talked to."""

    name: str

    def request(
        self, prompt_ids: Sequence[int], params: SamplingParams, num_new: int, model: str
    ) -> tuple[str, dict[str, Any]]:
        """(path, body) of a streamed answer. Raises: ModelError for what this server cannot do."""

    def reports(self, events: Iterator[dict[str, Any]]) -> Iterator[Report]:
        """What the events of one answer say."""

    def score_request(self, ids: Sequence[int], num_prompt_tokens: int, model: str) -> tuple[str, dict[str, Any]]:
        """(path, body) that asks for the log-probabilities of `ids`."""

    def scores(self, answer: Any, ids: Sequence[int], num_prompt_tokens: int) -> list[float]:
        """The log-probability of each of `ids[num_prompt_tokens:]` in the answer to `score_request`."""


class RemoteEngine(EngineBase):
    """See the module.

    Args:
        models: names that the server knows, the first one is what the configuration means.
        process: the server, where it is ours to end.
    """

    def __init__(
        self,
        dialect: Dialect,
        address: Address,
        models: Sequence[str],
        context_length: int,
        tokenizer: Any,
        process: ServerProcess | None = None,
    ) -> None:
        self.process = process
        self._dialect, self._address, self._tokenizer = dialect, address, tokenizer
        self._models, self._context_length = tuple(models), context_length
        self._threads = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix=dialect.name)
        self._lock = threading.Lock()
        self._tickets: set[_Request] = set()
        self._sums: Counter[str] = Counter()

    @property
    def models(self) -> tuple[str, ...]:
        """See `Engine.models`."""
        return self._models

    @property
    def context_length(self) -> int:
        """See `Engine.context_length`."""
        return self._context_length

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        deliver: Callable[[Event], None],
        model: str | None = None,
    ) -> _Request:
        """See `Engine.submit`."""
        num_new = num_new_tokens(len(prompt_ids), params, self._context_length)
        path, body = self._dialect.request(prompt_ids, params, num_new, self._known(model))
        request = _Request(self, Call(self._address), path, body, _Reader(params, self._tokenizer), deliver)
        with self._lock:
            if len(self._tickets) >= MAX_RUNNING + MAX_WAITING:
                raise EngineBusyError(MAX_WAITING, RETRY_AFTER_S)
            self._tickets.add(request)
            self._sums["prompt_tokens"] += len(prompt_ids)
        self._threads.submit(request.run).add_done_callback(request.tell_failure)
        return request

    def score(self, ids: Sequence[int], num_prompt_tokens: int, model: str | None = None) -> list[float]:
        """See `Engine.score`."""
        if num_prompt_tokens < 1 or len(ids) > self._context_length:
            raise ModelError(
                f"{len(ids)} tokens cannot be scored from token {num_prompt_tokens} on",
                why=f"one token must stand before the first, and {self._context_length} tokens fit",
            )
        path, body = self._dialect.score_request(ids, num_prompt_tokens, self._known(model))
        return self._dialect.scores(Call(self._address).post(path, body), ids, num_prompt_tokens)

    def figures(self) -> Mapping[str, float]:
        """See `Engine.figures`."""
        with self._lock:
            num = len(self._tickets)
            sums = {f"{name}_total": self._sums[name] for name in ("requests", "prompt_tokens", "answer_tokens")}
            return {"running": min(num, MAX_RUNNING), "waiting": max(num - MAX_RUNNING, 0), **sums}

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            tickets = tuple(self._tickets)
        for ticket in tickets:
            ticket.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self.process is not None:
            self.process.close()

    def lost(self, error: BaseException) -> ModelError:
        """The error for a connection that broke: the server's last words where it has ended."""
        what = f"the connection to {self._dialect.name} broke: {type(error).__name__}: {error}"
        if self.process is not None and self.process.has_ended:
            return self.process.failure(f"{self._dialect.name} has ended")
        return ModelError(what, fix="run the same command again")

    def done(self, request: _Request, num_tokens: int) -> None:
        """Take a request off the list."""
        with self._lock:
            self._tickets.discard(request)
            self._sums["requests"] += 1
            self._sums["answer_tokens"] += num_tokens

    def reports(self, call: Call, path: str, body: dict[str, Any]) -> Iterator[Report]:
        """What the server says on a request."""
        return self._dialect.reports(call.events(path, body))

    def _known(self, model: str | None) -> str:
        name = self._models[0] if model is None else model
        if name not in self._models:
            raise ModelError(f"no model '{name}' is served", fix=f"choose one of {', '.join(self._models)}")
        return name


@dataclass(slots=True, eq=False)
class _Request:
    """A request on its way, run by a thread of the engine; it is its own ticket."""

    engine: RemoteEngine
    call: Call
    path: str
    body: dict[str, Any]
    reader: _Reader
    deliver: Callable[[Event], None]
    is_cancelled: bool = False

    def cancel(self) -> None:
        """See `Ticket.cancel`."""
        self.is_cancelled = True
        self.call.end()

    def run(self) -> None:
        """Deliver the answer, or the one exception that ends it."""
        try:
            self._run()
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            if not self.is_cancelled:
                self.deliver(self.engine.lost(error))
        except ModelError as error:
            self.deliver(error)
        finally:
            self.engine.done(self, self.reader.num_tokens)

    def tell_failure(self, run: Future[None]) -> None:
        """Deliver what `run` did not expect, so that nobody waits for an answer that will not come."""
        if not run.cancelled() and isinstance(error := run.exception(), Exception):
            self.deliver(error)

    def _run(self) -> None:
        if self.is_cancelled:
            return
        for report in self.engine.reports(self.call, self.path, self.body):
            for piece in self.reader.read(report):
                if self.is_cancelled:
                    return
                self.deliver(piece)
            if self.reader.is_done:
                self.call.end()  # also where a stop text was found here before the server saw it
                return
        if not self.is_cancelled:
            raise ModelError("the inference server ended an answer without saying why")


class _Reader:
    """Makes pieces of the tokens that a server reports: readable text, stop texts cut off, the reason at the end."""

    def __init__(self, params: SamplingParams, tokenizer: Any) -> None:
        self._stop_ids = params.stop_ids
        self._text = IncrementalDetokenizer(
            lambda ids: tokenizer.decode(
                list(ids), skip_special_tokens=params.skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )
        self._stops = StopScanner(params.stop)
        self.num_tokens, self.is_done = 0, False

    def read(self, report: Report) -> Iterator[StreamPiece]:
        """The pieces of one report."""
        for place, token in enumerate(report.tokens, 1):
            is_last = place == len(report.tokens) and report.reason is not None
            text, reason = self._read(token.id, report.reason if is_last else None)
            self.num_tokens += 1
            yield StreamPiece(text, token.id, reason, token.logprob, token.alternatives)
            if reason is not None:
                self.is_done = True
                return
        if report.reason is not None:
            raise ModelError("the inference server ended an answer without its last token")

    def _read(self, token_id: int, told: FinishReason | None) -> tuple[str, FinishReason | None]:
        if token_id in self._stop_ids:
            return self._rest(), "stop"
        shown = self._stops.add(self._text.add(token_id))
        if self._stops.found:
            return shown, "stop"
        if told is None:
            return shown, None
        shown += self._rest()
        return shown, "stop" if self._stops.found else told

    def _rest(self) -> str:
        return self._stops.add(self._text.flush()) + self._stops.flush()


def greedy_as_zero(params: SamplingParams) -> SamplingParams:
    """The same with temperature 0 where the likeliest token is to be taken: how servers are told so."""
    return replace(params, temperature=0.0, top_p=1.0, top_k=0) if params.greedy else params
