"""Names that a user can choose from, each mapped to where it lives: `name -> "module:attribute"`.

A registry is a literal table: reading it imports nothing, so `--help` can list the names for free.
The object is imported on first access. A name given twice is an error; a typo gets a suggestion.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.errors import ConfigError, UserError, did_you_mean


class Registry:
    """A read-mostly table of named objects.

    Args:
        kind: what the names stand for, as it appears in messages ("stage", "template").
        table: name -> "package.module:attribute".
        error: the `UserError` member raised for an unknown name.
    """

    def __init__(self, kind: str, table: Mapping[str, str], error: type[UserError] = ConfigError) -> None:
        self.kind = kind
        self._error = error
        self._targets = dict(table)
        self._loaded: dict[str, Any] = {}

    def register(self, name: str, target: str) -> None:
        """Add a name. Raises: ValueError when it is taken."""
        if name in self._targets:
            raise ValueError(f"{self.kind} '{name}' is registered already, as {self._targets[name]}")
        self._targets[name] = target

    def __contains__(self, name: str) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def get(self, name: str) -> Any:
        """The object behind `name`, imported now if it was not before. Raises: the registry's error."""
        if name not in self._targets:
            hint = did_you_mean(name, self._targets)
            raise self._error(
                f"unknown {self.kind} '{name}'",
                fix=f"{hint} Known: {', '.join(sorted(self._targets))}.".strip(),
            )
        if name not in self._loaded:
            module_name, _, attribute = self._targets[name].partition(":")
            self._loaded[name] = getattr(importlib.import_module(module_name), attribute)
        return self._loaded[name]
