"""The rooms of all open tabs, by the name that gradio gives each tab.

A tab that closes stops its answer. Its room stays until many newer ones have been opened: a page that is loaded again,
or a laptop that was asleep, comes back to it by a secret that only this tab holds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from tunesmith.serve.webchat.room import Room

MAX_ROOMS = 256
MIN_SECRET_CHARACTERS = 32


class Rooms:
    """Finds or opens the room of a tab. Thread-safe."""

    def __init__(self, open_room: Callable[[], Room], max_rooms: int = MAX_ROOMS) -> None:
        self._open, self._max_rooms = open_room, max_rooms
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._tab_of_secret: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rooms)

    def of(self, tab: str) -> Room:
        """The room of a tab; the one longest unused is given up when there are too many."""
        with self._lock:
            return self._of(tab)

    def _of(self, tab: str) -> Room:
        if tab not in self._rooms:
            self._rooms[tab] = self._open()
        self._rooms.move_to_end(tab)
        while len(self._rooms) > self._max_rooms:
            name, oldest = self._rooms.popitem(last=False)
            self._tab_of_secret = {key: value for key, value in self._tab_of_secret.items() if value != name}
            if oldest not in self._rooms.values():
                oldest.stop()
        return self._rooms[tab]

    def come_back(self, tab: str, secret: str) -> Room:
        """The room of a tab that has been loaded (again): the one it had under another name, or a new one."""
        with self._lock:
            earlier = self._tab_of_secret.get(secret, "")
            if earlier in self._rooms and earlier != tab:
                self._rooms[tab] = self._rooms[earlier]
            room = self._of(tab)
            if len(secret) >= MIN_SECRET_CHARACTERS:
                self._tab_of_secret[secret] = tab
            return room

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
