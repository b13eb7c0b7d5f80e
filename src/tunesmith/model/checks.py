"""One line of a verdict on a folder of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "FAIL"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `note` is worth knowing and no fault."""

    name: str
    status: Status
    detail: str


NUM_NAMED = 3
"""So many of several faults are told by name."""


def named(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
