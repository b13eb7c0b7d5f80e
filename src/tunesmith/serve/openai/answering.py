"""A request from its turn to its end: watched for leaving, counted, and given back whatever happens."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request

from tunesmith.infer.engine import StreamPiece
from tunesmith.serve.openai.events import EventStream
from tunesmith.serve.openai.log import Record
from tunesmith.serve.openai.run import Run
from tunesmith.serve.openai.service import Service, Turn

RECORD = "tunesmith.record"
"""Where the guard keeps a request's record, in its ASGI scope."""


class Answering:
    """The run of one request, its turn and its record. Made by `begin`, to be ended by `end`."""

    def __init__(self, run: Run, turn: Turn, record: Record) -> None:
        self.run, self.record = run, record
        self._turn = turn
        self._began = time.monotonic()

    @classmethod
    async def begin(cls, request: Request, service: Service) -> Answering:
        """Wait for a turn. Raises: ApiError 429; ClientLeft."""
        run = Run()
        run.watch(request.receive)
        try:
            turn = await service.take_turn(run)
        except BaseException:
            run.end()
            raise
        return cls(run, turn, request.scope.get(RECORD) or Record())

    async def pieces(self) -> AsyncGenerator[tuple[int, StreamPiece], None]:
        """The pieces of the run, counted."""
        async for index, piece in self.run.pieces():
            if self.record.first_token_s is None:
                self.record.first_token_s = time.monotonic() - self._began
            self.record.completion_tokens += 1
            yield index, piece

    def stream(self, contents: AsyncGenerator[Mapping[str, Any], None]) -> EventStream:
        """A streamed response that ends this when it ends."""
        return EventStream(contents, self.end, self._left)

    def end(self) -> None:
        """Give everything back. Idempotent."""
        self._turn.end()

    def _left(self) -> None:
        self.record.client_left = True


def usage(record: Record) -> dict[str, int]:
    """OpenAI's usage: every token that was computed counts, the one that ends an answer too."""
    return {
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "total_tokens": record.prompt_tokens + record.completion_tokens,
    }
