"""What a kind of row is: how it is read from a row's columns, and how it becomes tokens in pieces.

A kind is one file with a `KIND` object: `read` (columns -> a row of `types.py`), `render` (that row -> examples within
`cutoff_len`) and, where the examples of a split depend on each other, `finish`. Both of the first raise `RowError` for
a row that teaches nothing, with the reason; `data/intake` enters it in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunesmith.data.cutoff import cut_example
from tunesmith.data.formats.base import Format
from tunesmith.data.ledger import Use
from tunesmith.data.rows import Row, RowError
from tunesmith.data.schema import DatasetEntry
from tunesmith.data.store import ExampleStore
from tunesmith.types import Conversation, Message, RenderedExample, ToolSpec, TrainingRow


class ExampleRenderer(Protocol):
    """The part of `tunesmith.render.Renderer` that preparing data needs."""

    stop_ids: tuple[int, ...]

    @property
    def text_start_id(self) -> int | None:
        """The token that the model is used to see before any text, if there is one."""

    @property
    def text_end_id(self) -> int | None:
        """The token that ends a document, if there is one."""

    def examples(self, conversation: Conversation, policy: Any) -> list[RenderedExample]:
        """The conversation as tokens with weights."""

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[int, ...]:
        """The tokens that inference is fed."""

    def text_ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a plain text."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """What all rows of a run are rendered with; `policy` says which turns of a conversation are trained."""

    renderer: ExampleRenderer
    policy: Any
    cutoff_len: int


@dataclass(frozen=True, slots=True)
class Example:
    """One training example of T tokens.

    Attributes:
        weights: loss weight of predicting each token.
        num_turns, num_stops: trained answers (or documents), and those that end in a trained stop token.
        full_length: tokens of its longest sequence before the cut; `is_cut`: whether the cut took any.
        piece_lengths: (prefix, branch, ...) where it is several sequences; see `data/store`.
        numbers: what its stage needs to know beside the tokens, by name.
        row: the fields that its stage looks at.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    num_turns: int
    num_stops: int
    full_length: int
    is_cut: bool = False
    piece_lengths: tuple[int, ...] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    row: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """The examples of one row, how many tokens the cut took from it, and into how many chunks it is split."""

    examples: list[Example]
    num_cut_tokens: int = 0
    num_chunks: int = 1


def keep_as_built(store: ExampleStore, use: Use, cutoff_len: int) -> ExampleStore:
    """The store of a split whose examples do not depend on each other."""
    return store


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of row.

    Attributes:
        holds: what rows of this kind are, for messages ("pairs of a better and a worse answer").
        stages: the stages that learn from it.
        needs: what a dataset must have to be read as this kind, for messages.
        read: (row, entry, format) -> the row as its type. Raises: RowError when a part is missing or wrong.
        render: (row, rendering) -> its examples. Raises: RowError when nothing could be learned from it.
        part_names: what the pieces of an example are, for previews; none when an example is one piece.
        finish: (examples of a split, "train" or "eval", cutoff_len) -> what is trained or evaluated on.
            Raises: DataError when the split as a whole cannot be used.
    """

    holds: str
    stages: tuple[str, ...]
    needs: str
    read: Callable[[Row, DatasetEntry, Format], TrainingRow]
    render: Callable[[Any, Rendering], RenderedRow]
    part_names: Callable[[Example], tuple[str, ...]] = lambda example: ()
    finish: Callable[[ExampleStore, Use, int], ExampleStore] = keep_as_built


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt with one answer as tokens, cut at `cutoff_len`; its first trained token stands at `num_context`."""

    example: RenderedExample
    full_ids: tuple[int, ...]
    num_context: int

    @property
    def full_length(self) -> int:
        """Tokens before the cut."""
        return len(self.full_ids)

    @property
    def num_cut(self) -> int:
        """Tokens that the cut took."""
        return len(self.full_ids) - len(self.example.input_ids)


def render_answer(
    prompt: Sequence[Message], answer: Message, tools: tuple[ToolSpec, ...], rendering: Rendering, name: str
) -> Answered:
    """A prompt and one answer, of which the answer is trained: the very tokens that `stage: sft` would train on.

    Args:
        name: what the answer is called in messages, such as "chosen".
    Raises: RowError when no token of the answer is left within `cutoff_len`; DataError as the renderer does.
    """
    if answer.weight not in (None, 1.0):
        raise RowError(name, f"has the weight {answer.weight:g}, but it is judged, not weighed", "remove the weight")
    whole = Conversation((*prompt, answer), tools)
    examples = rendering.renderer.examples(whole, rendering.policy)
    if not examples:
        raise RowError(name, "is empty as the template writes it", "fill it or remove the row")
    full = examples[-1]
    cut = cut_example(full, rendering.cutoff_len, rendering.renderer.stop_ids)
    if not any(cut.weights):
        raise beyond_cutoff(first_trained(full), len(full.input_ids), field=name)
    return Answered(cut, full.input_ids, first_trained(full))


def first_trained(example: RenderedExample) -> int:
    """The position of the first trained token."""
    return next(position for position, weight in enumerate(example.weights) if weight)


def beyond_cutoff(begins_at: int, length: int, field: str = "") -> RowError:
    """The verdict on an answer of which no token lies within `cutoff_len`."""
    fix = f"it begins at token {begins_at}; the row has {length}"
    return RowError(field, "answer lies beyond cutoff_len", fix, needed_cutoff_len=length)
