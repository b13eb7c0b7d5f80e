"""Fills {{name}} and {{author}} in rows about the assistant itself.

The shipped identity data hold these placeholders; `name:` and `author:` of the configuration replace
them. Left unset they would be learned literally, so rows that hold them are counted and that is said.
"""

from __future__ import annotations

import re
from dataclasses import replace

from tunesmith.types import Conversation, Message

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

    def fill(self, conversation: Conversation) -> Conversation:
        """The conversation with its placeholders filled; the same object when it holds none."""
        found = {key for message in conversation.messages for key in _PLACEHOLDER.findall(message.content)}
        for key in found:
            counts = self.num_unset if self._values[key] is None else self.num_filled
            counts[key] += 1
        if not found:
            return conversation
        return replace(conversation, messages=tuple(self._fill_message(message) for message in conversation.messages))

    def _fill_message(self, message: Message) -> Message:
        content = _PLACEHOLDER.sub(lambda match: self._values[match[1]] or match[0], message.content)
        return message if content == message.content else replace(message, content=content)

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
