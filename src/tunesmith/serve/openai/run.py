"""The engine's answers to one request, as an asynchronous stream that a leaving client ends.

The engine delivers from a thread of its own; here every piece crosses into the event loop. A run is ended once:
by its last piece, by an error, or by the client, who is watched from the first moment on. A ticket that comes after
the end is cancelled at once, so nothing is computed for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any

from tunesmith.infer.engine import Engine, Event, SamplingParams, StreamPiece, Ticket

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientLeft(Exception):
    """Nobody is there to read the answer."""


class Run:
    """The tickets of one request and what they deliver. Made in the event loop; `submit` may be called anywhere."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._lock = threading.Lock()
        self._ended = False
        self.left = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    def watch(self, receive: Receive) -> None:
        """Cancel everything as soon as `receive` says that the client has left. The body must have been read."""
        self._watcher = asyncio.create_task(self._wait_for_leaving(receive))

    async def _wait_for_leaving(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()
        self._cancel_tickets()
        self._events.put_nowait((0, ClientLeft()))

    def submit(self, engine: Engine, index: int, prompt_ids: Sequence[int], params: SamplingParams, model: str) -> None:
        """Ask for answer `index`. Raises: as `Engine.submit`."""
        ticket = engine.submit(prompt_ids, params, partial(self._deliver, index), model)
        with self._lock:
            self._tickets.append(ticket)
            is_late = self._ended
        if is_late:
            ticket.cancel()

    def _deliver(self, index: int, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has gone: the server has been ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    async def pieces(self) -> AsyncGenerator[tuple[int, StreamPiece], None]:
        """(index of the answer, piece) of all answers as they come, until each has ended.

        Raises: ClientLeft; what the engine delivered in place of a piece.
        """
        num_open = len(self._tickets)
        while num_open:
            index, event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            num_open -= event.finish_reason is not None
            yield index, event

    def end(self) -> None:
        """Give everything back. Idempotent."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._cancel_tickets()

    def _cancel_tickets(self) -> None:
        with self._lock:
            self._ended = True
            tickets = list(self._tickets)
        for ticket in tickets:
            ticket.cancel()
