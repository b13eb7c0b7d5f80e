"""What a user sees when something is wrong: what, where, why, what to do. Never a traceback.

Raise the family member that fits; `cli/main` prints `render()` and exits with `exit_code`.
To add a member, subclass `UserError`: the name says which part of the user's input is at fault.
Programmer mistakes are `assert`, not these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake or obstacle that the user can remove.

    Args:
        what: one sentence: what is wrong, naming what was given.
        where: file, line, field or step, as precisely as known (`train.yaml:12, learning_rate`).
        why: the cause or the consequence, when it is not obvious.
        fix: what to do, as an instruction; a command or a line to change where possible.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.fix = what, where, why, fix

    def render(self) -> str:
        """The message as printed: one labelled line per part that is known."""
        parts = (("error", self.what), ("where", self.where), ("why", self.why), ("do", self.fix))
        lines = []
        for label, text in parts:
            if text:
                lines.append(f"{label + ':':<7}" + text.replace("\n", "\n       "))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()


class ConfigError(UserError):
    """A setting is unknown, of the wrong type, out of bounds, or contradicts another."""


class DataError(UserError):
    """A dataset is missing, unreadable, or its rows cannot be trained on."""


class TemplateError(UserError):
    """A chat template is unknown, unusable, or does not fit the model."""


class ModelError(UserError):
    """A model or adapter folder is missing, damaged, or does not fit the settings."""


class ResumeError(UserError):
    """A run cannot be continued: something it depends on has changed or is incomplete."""


class TrainingError(UserError):
    """Training had to stop: a non-finite number, a full disk, an impossible step."""


class ExportError(UserError):
    """An export was refused, or what was written is not what was tried."""


def nearest(name: str, known: Iterable[str], num_names: int = 3) -> list[str]:
    """The known names most like `name`, best first; empty when nothing is close."""
    return difflib.get_close_matches(name, list(known), n=num_names, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` for the nearest known name, or an empty string."""
    names = nearest(name, known, 1)
    return f"Did you mean '{names[0]}'?" if names else ""
