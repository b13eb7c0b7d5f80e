"""What the renderer needs to know of a chat layout, whether it is a table entry or a model's own Jinja template.

A dialect writes text. It never sees tokens, masks or weights: those follow from which text is the prompt and
which is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunesmith.render.reader import AnswerShape
from tunesmith.render.template import Thinking
from tunesmith.types import Message, ToolSpec

THOUGHTS_LEFT_OUT = "enable_thinking is false: thoughts in the rows are left out, and answers begin without one"


@dataclass(frozen=True, slots=True)
class AnswerText:
    """What follows a generation prompt: `silent` is context, `taught` is trained and ends with the end token."""

    taught: str
    silent: str = ""


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """The settings of a run that change the text.

    Attributes:
        default_system: replaces the template's default system text; an empty string means none.
        enable_thinking: True: answers think (an answer without a thought is trained with an empty one);
            False: they do not (the prompt holds an empty thought); None: thoughts as the rows have them, empty ones
            untrained.
        preserve_thinking: thoughts stay in the history.
        tool_format: how tools and calls are written, instead of the template's way.
    """

    default_system: str | None = None
    enable_thinking: bool | None = True
    preserve_thinking: bool = False
    tool_format: str | None = None


class Dialect(Protocol):
    """A chat layout."""

    name: str
    end_text: str
    """The token that ends an answer; empty when there is none."""
    call_end_text: str
    """The token that ends an answer with tool calls; mostly the same."""
    stop_texts: tuple[str, ...]
    """Every token at which generation stops, the end first; some may be missing from a vocabulary."""
    control_texts: tuple[str, ...]
    """Token texts that only the layout may write."""
    thinking_texts: tuple[str, ...]
    """Token texts that open and close a thought."""
    shape: AnswerShape
    """What its answers look like, for reading them."""
    open_thinking: Thinking | None
    """How an answer's thought is written; None when its prompt has closed it, or there is none."""
    notes: list[str]

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
        """The text that inference is given: everything said so far and the header of the answer."""

    def answer_text(self, messages: Sequence[Message], answer: Message, tools: Sequence[ToolSpec] = ()) -> AnswerText:
        """What the model should write after `prompt_text(messages, tools)`."""

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> Message:
        """The assistant message behind generated text (without its end token)."""

    def describe(self) -> Mapping[str, Any]:
        """JSON-able identity for the render contract: source, hash, policies."""
