"""Fills {{name}} and {{author}} in rows about the assistant itself.

The shipped identity data hold these placeholders; `name:` and `author:` of the configuration replace
them. Left unset they would be learned literally, so rows that hold them are counted and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from tunesmith.types import Conversation, Feedback, Message, Preference, Prompt, TrainingRow

_PLACEHOLDER = re.compile(r"\{\{\s*(name|author)\s*\}\}")


class Placeholders:
    """Substitution with counts.

    Args:
        name: what stands for {{name}}; None leaves it as it is.
        author: what stands for {{author}}; None leaves it as it is.
    """

    def __init__(self, name: str | None, author: str | None) -> None:
        self._values = {"name": name, "author": author}
        self.num_filled = dict.fromkeys(self._values, 0)
        self.num_unset = dict.fromkeys(self._values, 0)

    def fill(self, row: TrainingRow) -> TrainingRow:
        """The row with its placeholders filled; documents are left as they are."""
        found: set[str] = set()
        filled = _with_messages(row, lambda message: self._fill_message(message, found))
        for key in found:
            counts = self.num_unset if self._values[key] is None else self.num_filled
            counts[key] += 1
        return filled

    def _fill_message(self, message: Message, found: set[str]) -> Message:
        keys = _PLACEHOLDER.findall(message.content)
        if not keys:
            return message
        found.update(keys)
        return replace(
            message, content=_PLACEHOLDER.sub(lambda match: self._values[match[1]] or match[0], message.content)
        )

    def notes(self) -> list[str]:
        """What was filled, what stands unfilled, and what was given for nothing."""
        notes = []
        for key, value in self._values.items():
            if self.num_unset[key]:
                notes.append(
                    f"{{{{{key}}}}} stands in {_rows(self.num_unset[key])} and `{key}` is not set, so the model will "
                    f"learn the placeholder itself; set `{key}: ...` in the configuration or replace it in the rows"
                )
            elif self.num_filled[key]:
                notes.append(f"{{{{{key}}}}} is '{value}' in {_rows(self.num_filled[key])}")
            elif value is not None:
                notes.append(f"`{key}: {value}` is set, but no row holds {{{{{key}}}}}")
        return notes


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _with_messages(row: TrainingRow, change: Callable[[Message], Message]) -> TrainingRow:
    """The row with every message changed."""
    if isinstance(row, Conversation):
        return replace(row, messages=tuple(map(change, row.messages)))
    if isinstance(row, Preference):
        prompt = tuple(map(change, row.prompt))
        return replace(row, prompt=prompt, chosen=change(row.chosen), rejected=change(row.rejected))
    if isinstance(row, Feedback):
        return replace(row, prompt=tuple(map(change, row.prompt)), answer=change(row.answer))
    if isinstance(row, Prompt):
        answer = None if row.answer is None else change(row.answer)
        return replace(row, messages=tuple(map(change, row.messages)), answer=answer)
    return row
