"""What flows through Tunesmith, from a row of a file to the tokens of a training example.

Frozen, plain, no torch and no numpy: every part of the program may import this module.
rows -> Conversation | Preference | Feedback | Text | Prompt -> RenderedExample -> (data/plan, data/collate)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
"""Who speaks. `tool` is what the public tool calls `observation`; a function call is an assistant turn."""


@dataclass(frozen=True, slots=True)
class RowRef:
    """Where a row came from, so that any message about it can point there.

    `line` is the 1-based line on which the row begins (0 where the format has no lines, as in parquet);
    `index` is its 0-based position in the file.
    """

    dataset: str
    file: str
    line: int
    index: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else f"{self.file}, row {self.index}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function call of an assistant turn; `arguments` is JSON text."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` is the loss weight of an assistant turn; None leaves it to the training policy."""

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A dialogue to learn from: an optional system turn first, then user/tool and assistant turns in turn."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    ref: RowRef | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with a better and a worse answer."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    tools: tuple[ToolSpec, ...] = ()
    ref: RowRef | None = None


@dataclass(frozen=True, slots=True)
class Feedback:
    """A prompt with one answer and a thumb up or down."""

    prompt: tuple[Message, ...]
    answer: Message
    desirable: bool
    tools: tuple[ToolSpec, ...] = ()
    ref: RowRef | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A document to continue pretraining on."""

    text: str
    ref: RowRef | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question that the model answers anew in training, and the row it stands in.

    `fields` are the columns of the row as they stand in the file, since a reward may look at any of them.
    `answer` is the row's own answer, where it has one; it is not trained on.
    """

    messages: tuple[Message, ...]
    fields: Mapping[str, Any]
    answer: Message | None = None
    tools: tuple[ToolSpec, ...] = ()
    ref: RowRef | None = None


TrainingRow = Conversation | Preference | Feedback | Text | Prompt
"""A row of a file, as what its stage learns from."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, end) of an example: whose turn they are, and whether they are trained on.

    An assistant span holds the answer *and* the tokens that end the turn; the header that opens it
    belongs to the span before it, since inference is given it.
    """

    start: int
    end: int
    role: Role
    trained: bool


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """A conversation as tokens, with the loss weight of each token (0.0: context only).

    `input_ids` and `weights` have the same length T. `weights[t]` is the weight of *predicting token t*.
    `num_turns` counts the trained assistant turns; `num_stops` those whose trained tokens include the
    token that stops generation. After a cut `num_stops` may be smaller.
    """

    input_ids: tuple[int, ...]
    weights: tuple[float, ...]
    spans: tuple[Span, ...]
    num_turns: int
    num_stops: int
    ref: RowRef | None = None
