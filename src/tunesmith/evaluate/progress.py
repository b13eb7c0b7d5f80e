"""How far a prediction is: rows done, rows and tokens per second, time left. One line, renewed in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta

TERMINAL_INTERVAL_S, PLAIN_INTERVAL_S = 0.5, 15.0


class Progress:
    """Counts rows; `say` gets a line now and then where no terminal is there."""

    def __init__(self, num_rows: int, say: Callable[[str], None]) -> None:
        self._num_rows, self._say = num_rows, say
        self._live = sys.stderr.isatty()
        self._num_done = self._num_tokens = 0
        self._started_s = self._shown_s = time.monotonic()

    def add(self, num_tokens: int) -> None:
        """One more row, with so many new tokens."""
        self._num_done += 1
        self._num_tokens += num_tokens
        interval_s = TERMINAL_INTERVAL_S if self._live else PLAIN_INTERVAL_S
        if time.monotonic() - self._shown_s < interval_s:
            return
        self._shown_s = time.monotonic()
        if self._live:
            print(f"\r\x1b[2K{self.line()}", end="", file=sys.stderr, flush=True)
        else:
            self._say(self.line())

    def line(self) -> str:
        """The progress in words."""
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        rate = self._num_done / elapsed_s
        left = str(timedelta(seconds=int((self._num_rows - self._num_done) / rate))) if rate else "?"
        share = f"{self._num_done:,}/{self._num_rows:,} rows"
        return f"{share}  {rate:.2f} rows/s  {self._num_tokens / elapsed_s:,.0f} tokens/s  {left} left"

    def close(self) -> None:
        """Take the line of a terminal away."""
        if self._live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
