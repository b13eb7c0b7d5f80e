"""Settings inside a setting: what the entries of `optim_args` and `lr_scheduler_kwargs` may be called and may hold.

Both are handed to an algorithm that somebody else named, so the list of what is accepted is a table per algorithm
(`optimizers.py`, `schedules.py`), checked here: an unknown name or a wrong type is one message, never a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Argument:
    """What one entry may hold; bounds are inclusive (`ge`, `le`) or exclusive (`gt`, `lt`), None is no bound."""

    kind: Literal["int", "float", "bool", "str"] = "float"
    choices: tuple[str, ...] = ()
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def expected(self) -> str:
        """What a value must be, as the end of the sentence `expected ...`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}[self.kind]
        signs = (("at least", self.ge), ("above", self.gt), ("at most", self.le), ("below", self.lt))
        bounds = " and ".join(f"{sign} {bound:g}" for sign, bound in signs if bound is not None)
        return f"{words}, {bounds}" if bounds else words

    def read(self, value: Any) -> Any:
        """The value in its type, text included (`true`, `0.9`). Raises: ValueError when it is not one."""
        if isinstance(value, str) and self.kind != "str":
            value = _from_text(value)
        if self.kind == "bool" or isinstance(value, bool):
            if self.kind != "bool" or not isinstance(value, bool):
                raise ValueError
            return value
        if self.kind == "str":
            if not isinstance(value, str) or (self.choices and value not in self.choices):
                raise ValueError
            return value
        if not isinstance(value, (int, float)) or (self.kind == "int" and value != int(value)):
            raise ValueError
        if not self._within(value):
            raise ValueError
        return int(value) if self.kind == "int" else float(value)

    def _within(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
            and value == value
        )


def _from_text(text: str) -> bool | int | float:
    """Raises: ValueError when the text is no number and not true or false."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        return float(text)


def read_arguments(
    key: str,
    owner: str,
    given: Mapping[str, Any],
    known: Mapping[str, Argument],
    elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The entries of a setting in their types.

    Args:
        key: the setting they stand in; `owner`: the algorithm that takes them. Both are named in messages.
        known: what the algorithm takes.
        elsewhere: entry -> the key that sets the same thing, for entries that have a key of their own.

    Raises:
        ConfigError: an unknown name, or a value of the wrong type or out of bounds.
    """
    read = {}
    for name, value in given.items():
        if name not in known:
            own_key = (elsewhere or {}).get(name)
            listing = f"It has {', '.join(known)}." if known else "It has none."
            raise ConfigError(
                f"`{key}`: {owner} has no option '{name}'",
                fix=f"set `{own_key}` instead" if own_key else f"{did_you_mean(name, known)} {listing}".strip(),
            )
        try:
            read[name] = known[name].read(value)
        except (ValueError, TypeError, OverflowError) as err:
            raise ConfigError(
                f"`{key}`: {name} is {value!r}, expected {known[name].expected()}",
                fix=f"correct {name} in `{key}`",
            ) from err
    return read


def split_arguments(key: str, given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """`name=value,name=value` (or a mapping) as a dictionary; the values stay as written.

    Raises:
        ConfigError: an entry has no `=`.
    """
    if not given:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    arguments = {}
    for entry in given.replace(" ", "").split(","):
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise ConfigError(f"`{key}`: '{entry}' is not key=value", fix=f"write `{key}: momentum=0.9`")
        arguments[name] = value
    return arguments
