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

import numpy as np

from tunesmith.data.ledger import Totals
from tunesmith.data.store import ExampleStore, StoreBuilder
from tunesmith.types import Conversation, RenderedExample, RowRef

_DIGEST_BYTES = 16


def content_digest(conversation: Conversation) -> bytes:
    """A hash of what a conversation says, whatever file or format it came from."""
    messages = [
        [m.role, m.content, m.reasoning, [[c.name, c.arguments] for c in m.tool_calls], m.weight]
        for m in conversation.messages
    ]
    tools = [[tool.name, tool.description, dict(tool.parameters)] for tool in conversation.tools]
    content = json.dumps([messages, tools], ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]


@dataclass
class RowSet:
    """Rows that will be trained or evaluated on.

    Attributes:
        builder: collects their examples.
        digests: one content digest per row.
        row_of: the row number of each example.
        turns, stops, full_lengths: per example: trained turns, those that end in a trained stop token,
            and tokens before the cut.
    """

    builder: StoreBuilder = field(default_factory=StoreBuilder)
    digests: list[bytes] = field(default_factory=list)
    row_of: array[int] = field(default_factory=lambda: array("q"))
    turns: array[int] = field(default_factory=lambda: array("i"))
    stops: array[int] = field(default_factory=lambda: array("i"))
    full_lengths: array[int] = field(default_factory=lambda: array("i"))
    _first_ref: dict[bytes, RowRef] = field(default_factory=dict)

    def first_of(self, digest: bytes) -> RowRef | None:
        """The row that said the same before, if any."""
        return self._first_ref.get(digest)

    def add(self, digest: bytes, ref: RowRef, examples: Sequence[RenderedExample], full_lengths: Sequence[int]) -> None:
        """Add one row with at least one example."""
        self._first_ref.setdefault(digest, ref)
        for example, full_length in zip(examples, full_lengths, strict=True):
            self.builder.add(example.input_ids, example.weights, ref)
            self.row_of.append(len(self.digests))
            self.turns.append(example.num_turns)
            self.stops.append(example.num_stops)
            self.full_lengths.append(full_length)
        self.digests.append(digest)

    def contents(self) -> Collection[bytes]:
        """The distinct content digests."""
        return self._first_ref.keys()

    def build(self) -> BuiltRows:
        """The rows as arrays; nothing may be added afterwards."""
        columns = (self.row_of, self.turns, self.stops, self.full_lengths)
        row_of, turns, stops, full_lengths = (np.asarray(column, dtype=np.int64) for column in columns)
        return BuiltRows(self.builder.build(), self.digests, row_of, turns, stops, full_lengths)


@dataclass(frozen=True)
class BuiltRows:
    """A finished `RowSet`: the store, and per example the numbers that the checks need."""

    store: ExampleStore
    digests: list[bytes]
    row_of: np.ndarray
    turns: np.ndarray
    stops: np.ndarray
    full_lengths: np.ndarray

    def select_rows(self, rows: Collection[int]) -> BuiltRows:
        """The examples of these rows, in order."""
        chosen = np.flatnonzero(np.isin(self.row_of, np.fromiter(rows, np.int64, len(rows))))
        store = self.store.select(chosen)
        per_example = (self.row_of[chosen], self.turns[chosen], self.stops[chosen], self.full_lengths[chosen])
        return BuiltRows(store, self.digests, *per_example)

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
