"""What the form of a call is made of, for grammars: literal text, JSON of a schema, and these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Until:
    """Any text up to the first `end`, and `end`."""

    end: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text of a regular expression."""

    regex: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several forms."""

    forms: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Forms in this order with a separator between them; those that are not required may be missing."""

    items: tuple[tuple[Form, bool], ...]
    separator: str = ""


@dataclass(frozen=True, slots=True)
class Repeated:
    """A form any number of times, also not at all."""

    form: Form
    separator: str = ""


@dataclass(frozen=True, slots=True)
class AnyValue:
    """A value of a notation that holds lists and objects of values.

    Attributes:
        plain: the forms of what is neither.
        key: the form of a name in an object.
    """

    plain: OneOf
    key: Form


Piece = str | Mapping[str, Any] | Until | Pattern | OneOf | Row | Repeated | AnyValue
"""Literal text, a JSON schema, or one of the above."""
Form = tuple[Piece, ...]
"""Pieces one after the other."""
