"""Guesses at what comes next, from the text itself: answers repeat what stands before them.

A pass of fixed width has rows to spare when few answers run. They are given guesses: the tokens that followed when the
last two tokens stood there before. Each row of the pass sees what it would see if the tokens before it had been chosen
already, so the scores are the same to the bit, and a guess counts only when it is the token that is chosen in any case.
Reference: Saxena, "Prompt lookup decoding", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence


class Guesses:
    """What followed each pair of tokens when it was last seen.

    Args:
        ids: the prompt; `extend` by what comes after it.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, int], int] = {}
        self.extend(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def extend(self, ids: Sequence[int]) -> None:
        """More tokens of the text."""
        for token_id in ids:
            if len(self._ids) >= 2:
                self._after[self._ids[-2], self._ids[-1]] = len(self._ids)
            self._ids.append(token_id)

    def next(self, num: int) -> list[int]:
        """At most `num` tokens that may come next; none when the last two are new."""
        start = self._after.get((self._ids[-2], self._ids[-1])) if len(self._ids) >= 2 else None
        return [] if start is None or num < 1 else self._ids[start : start + num]
