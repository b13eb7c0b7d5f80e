"""Stop texts: the answer ends where one of them appears, wherever the borders between tokens fall.

Text is held back as long as its end could still grow into a stop text, so that a reader never sees the beginning of
one that is taken away later.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Feed text with `add`; what comes back may be shown. Once `found`, nothing more comes.

    Args:
        stops: texts of at least one character; none lets everything through.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The text that can be shown now."""
        if self.found:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            return self._take(min(places))
        return self._take(len(self._held) - self._num_open())

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        return "" if self.found else self._take(len(self._held))

    def _num_open(self) -> int:
        """Length of the longest end of the held text that begins a stop text."""
        longest = min(len(self._held), max((len(stop) for stop in self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _take(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text
