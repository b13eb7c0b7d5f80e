"""The rooms of all open tabs, by the name that gradio gives each tab.

A tab that closes stops its answer. Its room stays for a while (a laptop that sleeps comes back), until many newer ones
have been opened.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from tunesmith.serve.webchat.room import Room

MAX_ROOMS = 256


class Rooms:
    """Finds or opens the room of a tab. Thread-safe."""

    def __init__(self, open_room: Callable[[], Room], max_rooms: int = MAX_ROOMS) -> None:
        self._open, self._max_rooms = open_room, max_rooms
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rooms)

    def of(self, tab: str) -> Room:
        """The room of a tab; the one longest unused is given up when there are too many."""
        with self._lock:
            if tab not in self._rooms:
                self._rooms[tab] = self._open()
            self._rooms.move_to_end(tab)
            while len(self._rooms) > self._max_rooms:
                _, oldest = self._rooms.popitem(last=False)
                oldest.stop()
            return self._rooms[tab]

    def leave(self, tab: str) -> None:
        """The tab has been closed: stop what is being said to it."""
        with self._lock:
            room = self._rooms.get(tab)
        if room is not None:
            room.stop()

    def close(self) -> None:
        """Stop all answers."""
        with self._lock:
            rooms = list(self._rooms.values())
        for room in rooms:
            room.stop()
