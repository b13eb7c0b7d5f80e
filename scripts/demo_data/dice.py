"""Random choices that are the same on every machine and every version of Python.

Python promises that `random.Random(seed).random()` keeps its sequence, and promises nothing of the kind for `choice`,
`sample` and `shuffle`. So only `random()` is used here, and the seed is a SHA-256 of names, not a hash of objects.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

SEED = 20240517
Item = TypeVar("Item")


class Dice:
    """A stream of random choices that depends on nothing but `SEED` and the given names."""

    def __init__(self, *names: str) -> None:
        digest = hashlib.sha256("/".join((str(SEED), *names)).encode("utf-8")).digest()
        self._random = random.Random(int.from_bytes(digest[:8], "big"))

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def chance(self, share: float) -> bool:
        """True in this share of the calls (0.0 to 1.0)."""
        return self._random.random() < share

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.number(0, len(items) - 1)]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """All items in another order (Fisher and Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.number(0, last)
            result[last], result[other] = result[other], result[last]
        return result

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different items, in random order."""
        assert count <= len(items), f"{count} items asked for, {len(items)} are there"
        return self.shuffled(items)[:count]

    def dealt(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` items in random order, each item equally often (give or take one)."""
        return self.shuffled([items[index % len(items)] for index in range(count)])
