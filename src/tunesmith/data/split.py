"""Holds rows out for evaluation, so that equal rows never stand on both sides.

Rows are drawn by content: groups of equal rows are ordered by a hash of their content and the seed, and
taken whole until the count is reached. The choice depends on nothing else: not on the order of the rows,
the host, or the random generators of a library.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from tunesmith.errors import DataError


def num_held_out(val_size: float, num_rows: int) -> int:
    """How many rows `val_size` means: below 1 a fraction (rounded up), from 1 on a count.

    Raises: DataError when it is not a whole count, or leaves nothing to train on.
    """
    if val_size < 1:
        count = math.ceil(round(val_size * num_rows, 6))  # rounded first: 0.1 * 30 is 3.0000000000000004
    elif val_size == int(val_size):
        count = int(val_size)
    else:
        raise DataError(f"val_size is {val_size}", where="val_size", fix="give a fraction below 1, or a whole count")
    if count >= num_rows:
        raise DataError(
            f"val_size: {val_size:g} holds out {count} of {num_rows} rows, so none is left to train on",
            where="val_size",
            fix="lower it",
        )
    return count


def choose_held_out(digests: Sequence[bytes], count: int, seed: int) -> set[int]:
    """The indices of the rows held out: whole groups of equal digests, at most `count` rows in all.

    Fewer are chosen only when groups of equal rows cannot make up the count exactly.
    """
    groups: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    order = sorted(groups, key=lambda digest: hashlib.sha256(b"%d:" % seed + digest).digest())
    chosen: set[int] = set()
    for digest in order:
        if len(chosen) + len(groups[digest]) <= count:
            chosen.update(groups[digest])
        if len(chosen) == count:
            break
    return chosen
