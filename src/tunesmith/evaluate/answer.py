"""Many rows through one engine: the longest first, a bounded number at a time, each handed on when it is finished.

Long prompts first, so that what does not fit shows at once and the last rows are short ones. Every row draws from a
seed of its own, so that its answer does not depend on the order, on its company, or on a restart in between.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from tunesmith.errors import ModelError
from tunesmith.evaluate.rows import PredictRow
from tunesmith.infer.engine import (
    Completion,
    Engine,
    EngineBusyError,
    Event,
    SamplingParams,
    StreamPiece,
    Ticket,
    collect,
)

NUM_IN_FLIGHT = 128
"""Rows that an engine holds at a time; more than it computes at a time, so that it is never short of work."""

Answer = Completion | str
"""What became of a row: its answer, or why it has none."""


def answer_rows(
    engine: Engine, rows: Iterable[PredictRow], params: SamplingParams, num_in_flight: int = NUM_IN_FLIGHT
) -> Iterator[tuple[PredictRow, Answer]]:
    """Every row with what became of it, in the order in which they are finished.

    Raises: whatever the engine fails with; rows that were handed on before stay answered.
    """
    waiting = deque(sorted(rows, key=lambda row: (-len(row.prompt_ids), row.number)))
    flight = _Flight(engine, params)
    try:
        while waiting or flight.tickets:
            if waiting and len(flight.tickets) < num_in_flight and flight.landed.empty():
                refused = flight.start(waiting[0])
                if refused is not None:
                    yield waiting.popleft(), refused
                    continue
                if waiting[0].number in flight.tickets:
                    waiting.popleft()
                    continue
            yield flight.land()
    finally:
        flight.cancel()


@dataclass
class _Flight:
    """The rows that the engine is working at."""

    engine: Engine
    params: SamplingParams
    tickets: dict[int, Ticket] = field(default_factory=dict)
    landed: queue.SimpleQueue[tuple[PredictRow, list[StreamPiece] | Exception]] = field(
        default_factory=queue.SimpleQueue
    )

    def start(self, row: PredictRow) -> str | None:
        """Hand a row to the engine; returns why the row cannot be answered, if so.

        Where the engine is full and has rows of ours, nothing happens; where it is full of others, it is waited for.
        """
        if row.problem:
            return row.problem
        params = self.params
        if params.seed is not None:
            params = replace(params, seed=params.seed + row.number)
        while True:
            try:
                self.tickets[row.number] = self.engine.submit(row.prompt_ids, params, self._receiver(row))
                return None
            except EngineBusyError as busy:
                if self.tickets:
                    return None
                time.sleep(busy.retry_after)
            except ModelError as error:
                return error.what

    def land(self) -> tuple[PredictRow, Answer]:
        """Wait for the next finished row. Raises: what the engine failed with."""
        row, result = self.landed.get()
        del self.tickets[row.number]
        if isinstance(result, Exception):
            raise result
        return row, collect(result, len(row.prompt_ids))

    def cancel(self) -> None:
        """End what is under way."""
        for ticket in self.tickets.values():
            ticket.cancel()
        self.tickets.clear()

    def _receiver(self, row: PredictRow) -> Callable[[Event], None]:
        pieces: list[StreamPiece] = []

        def deliver(event: Event) -> None:
            if isinstance(event, Exception):
                self.landed.put((row, event))
                return
            pieces.append(event)
            if event.finish_reason is not None:
                self.landed.put((row, pieces))

        return deliver
