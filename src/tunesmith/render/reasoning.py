"""Thoughts in the words of an assistant: found, taken out, put back.

A row may hold a thought apart (`Message.reasoning`) or inside its text, between the markers.
"""

from __future__ import annotations

from tunesmith.render.template import Thinking
from tunesmith.types import Message

PLAIN = Thinking()
"""How a thought is written where the template has no way of its own."""


def split_reasoning(message: Message, thinking: Thinking = PLAIN) -> tuple[str, str]:
    """(thought, answer) of an assistant turn; the thought is empty when there is none.

    A text with a closing marker is split there, whatever stands before the opening one: a model whose prompt opens
    the thought writes no opening marker.
    """
    if message.reasoning is not None:
        return message.reasoning.strip("\n"), message.content
    opening, closing = thinking.open.strip("\n"), thinking.close.strip("\n")
    if closing not in message.content:
        return "", message.content
    before, _, answer = message.content.rpartition(closing)
    return before.rpartition(opening)[2].strip("\n"), answer.lstrip("\n")


def inline_reasoning(message: Message) -> str:
    """The text of a turn with its thought written in front, for templates that know no thoughts."""
    if not message.reasoning:
        return message.content
    return PLAIN.open + message.reasoning.strip("\n") + PLAIN.close + message.content
