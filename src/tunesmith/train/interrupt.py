"""Ctrl-C and SIGTERM end a run after the step at hand, with everything saved."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any


class Interrupt:
    """Ctrl-C and SIGTERM: the first asks for a checkpoint and the end, a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _notice(self, number: int, _frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step; press Ctrl-C again to stop without saving", file=sys.stderr)
