"""What a reader yields: a row, or the place and reason of a row that could not be read.

Readers and format converters never stop at the first mistake. They hand on `BadRow` (from a reader) or
raise `RowError` (from a converter), and `data/prepare` decides by `on_bad_row` what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from tunesmith.types import RowRef


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the file: column name -> value."""

    ref: RowRef
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be trained on: where it is, which field, why, and what to do about it."""

    ref: RowRef
    field: str
    why: str
    fix: str
    needed_cutoff_len: int = 0  # above 0: the row is sound, and cutoff_len cuts off all that it would teach

    @property
    def reason(self) -> str:
        """The field at fault and what is wrong with it, as one phrase."""
        return f"`{self.field}` {self.why}" if self.field else self.why

    def __str__(self) -> str:
        return f"{self.ref}: {self.reason}" + (f" ({self.fix})" if self.fix else "")


RowStream: TypeAlias = Iterator[Row | BadRow]


class RowError(Exception):
    """The verdict on one row: the field at fault, why, what to do, and the `cutoff_len` that it would need."""

    def __init__(self, field: str, why: str, fix: str = "", *, needed_cutoff_len: int = 0) -> None:
        super().__init__(f"{field}: {why}")
        self.field, self.why, self.fix, self.needed_cutoff_len = field, why, fix, needed_cutoff_len

    def at(self, ref: RowRef) -> BadRow:
        """The same verdict with its place in the file."""
        return BadRow(ref, self.field, self.why, self.fix, self.needed_cutoff_len)


def type_name(value: object) -> str:
    """The JSON name of a value's type, with its article, as used in messages ("a list")."""
    names = ((bool, "true or false"), (str, "text"), (int, "a number"), (float, "a number"))
    if value is None:
        return "null"
    for kind, name in names:
        if isinstance(value, kind):
            return name
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, (list, tuple)) else type(value).__name__


def short(text: object, limit: int = 60) -> str:
    """A value as one line of at most `limit` characters, for messages."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
