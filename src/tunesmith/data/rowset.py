"""Rendered rows with what is needed to split, count and judge them: a step on the way to an ExampleStore.

One row usually renders to one example; it renders to several when an earlier turn would change its
tokens. Splitting and counting are by row, training is by example.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.data.kinds.base import RenderedRow
from tunesmith.data.ledger import Totals
from tunesmith.data.store import ExampleStore, StoreBuilder
from tunesmith.types import Conversation, Feedback, Message, Preference, RowRef, Text, TrainingRow

_DIGEST_BYTES = 16


def content_digest(row: TrainingRow) -> bytes:
    """A hash of what a row says, whatever file or format it came from."""
    content = json.dumps(_content(row), ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]


def _content(row: TrainingRow) -> list[Any]:
    if isinstance(row, Text):
        return [row.text]
    tools = [[tool.name, tool.description, dict(tool.parameters)] for tool in row.tools]
    if isinstance(row, Conversation):
        return [_said(row.messages), tools]
    if isinstance(row, Preference):
        return [_said(row.prompt), tools, _said((row.chosen, row.rejected))]
    if isinstance(row, Feedback):
        return [_said(row.prompt), tools, _said((row.answer,)), row.desirable]
    return [_said(row.messages), tools, dict(row.fields)]


def _said(messages: Sequence[Message]) -> list[Any]:
    return [[m.role, m.content, m.reasoning, [[c.name, c.arguments] for c in m.tool_calls], m.weight] for m in messages]


@dataclass
class RowSet:
    """Rows that will be trained or evaluated on.

    Attributes:
        builder: collects their examples.
        digests: one content digest per row.
        row_of: the row number of each example.
        turns, stops: per example: trained turns, and those that end in a trained stop token.
        full_lengths: per example: tokens of its longest sequence before the cut.
        cut: per example: whether tokens were cut from it.
    """

    builder: StoreBuilder = field(default_factory=StoreBuilder)
    digests: list[bytes] = field(default_factory=list)
    row_of: array[int] = field(default_factory=lambda: array("q"))
    turns: array[int] = field(default_factory=lambda: array("i"))
    stops: array[int] = field(default_factory=lambda: array("i"))
    full_lengths: array[int] = field(default_factory=lambda: array("i"))
    cut: array[int] = field(default_factory=lambda: array("b"))
    _first_ref: dict[bytes, RowRef] = field(default_factory=dict)

    def first_of(self, digest: bytes) -> RowRef | None:
        """The row that said the same before, if any."""
        return self._first_ref.get(digest)

    def add(self, digest: bytes, ref: RowRef, rendered: RenderedRow) -> None:
        """Add one row with at least one example."""
        self._first_ref.setdefault(digest, ref)
        for example in rendered.examples:
            self.builder.add(
                example.ids, example.weights, ref, example.piece_lengths, numbers=example.numbers, row=example.row
            )
            self.row_of.append(len(self.digests))
            self.turns.append(example.num_turns)
            self.stops.append(example.num_stops)
            self.full_lengths.append(example.full_length)
            self.cut.append(example.is_cut)
        self.digests.append(digest)

    def contents(self) -> Collection[bytes]:
        """The distinct content digests."""
        return self._first_ref.keys()

    def build(self) -> BuiltRows:
        """The rows as arrays; nothing may be added afterwards."""
        columns = (self.row_of, self.turns, self.stops, self.full_lengths)
        row_of, turns, stops, full_lengths = (np.asarray(column, dtype=np.int64) for column in columns)
        cut = np.asarray(self.cut, dtype=bool)
        return BuiltRows(self.builder.build(), self.digests, row_of, turns, stops, full_lengths, cut)


@dataclass(frozen=True)
class BuiltRows:
    """A finished `RowSet`: the store, and per example the numbers that the checks need."""

    store: ExampleStore
    digests: list[bytes]
    row_of: np.ndarray
    turns: np.ndarray
    stops: np.ndarray
    full_lengths: np.ndarray
    cut: np.ndarray

    def select_rows(self, rows: Collection[int]) -> BuiltRows:
        """The examples of these rows, in order."""
        chosen = np.flatnonzero(np.isin(self.row_of, np.fromiter(rows, np.int64, len(rows))))
        store = self.store.select(chosen)
        columns = (self.row_of, self.turns, self.stops, self.full_lengths, self.cut)
        return BuiltRows(store, self.digests, *(column[chosen] for column in columns))

    def totals(self) -> Totals:
        """The figures for the ledger."""
        lengths = self.store.lengths
        return Totals(
            num_rows=len(np.unique(self.row_of)),
            num_examples=len(self.store),
            num_tokens=self.store.num_tokens,
            num_trained_tokens=self.store.num_trained_tokens,
            num_turns=int(self.turns.sum()),
            num_stops=int(self.stops.sum()),
            max_length=int(lengths.max(initial=0)),
            mean_length=float(lengths.mean()) if len(lengths) else 0.0,
        )
