"""The training examples as flat arrays: all token ids in one, all loss weights in another.

A Python list of ints costs 8 bytes per token and more for the numbers themselves; flat int32 and float32
arrays cost 8 bytes per token for ids and weights together, and the loop reads them without copying.
Row references are arrays too: a file number, a line and an index per example.

An example is one piece, a plain sequence, or several: a prefix and branches that each continue it and do not
see each other. A preference pair is [prompt | chosen | rejected], so its prompt is stored and computed once.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith.types import RowRef

if TYPE_CHECKING:
    from torch import Tensor

IntArray = npt.NDArray[np.int64]
FloatArrays = Mapping[str, npt.NDArray[np.floating[Any]]]


@dataclass(frozen=True, eq=False)
class ExampleStore:
    """N examples of T tokens in all.

    Attributes:
        ids: token ids, int32[T].
        weights: loss weight of predicting each token, float32[T]; 0.0 is context only.
        offsets: example i is [offsets[i], offsets[i + 1]), int64[N + 1].
        refs: (number in `files`, line, index) of each example's row, int64[N, 3].
        files: (dataset, file) pairs that `refs` points into.
        first_piece: example i has the pieces [first_piece[i], first_piece[i + 1]), int64[N + 1].
        piece_sizes: tokens of each piece, int64[M]; the pieces of an example lie end to end.
        per_example, per_sequence, per_token: numbers that a stage needs beside the tokens, by name, of N, S and T
            entries. S counts the sequences of all examples in order; a token's number belongs to predicting it.
        states: what frozen layers of the model give each token, (T, D), where a run keeps it.
        rows: the fields of each example's row, where a stage needs them (rewards look at them).
    """

    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    offsets: IntArray
    refs: IntArray
    files: tuple[tuple[str, str], ...]
    first_piece: IntArray
    piece_sizes: IntArray
    per_example: FloatArrays = field(default_factory=dict)
    per_sequence: FloatArrays = field(default_factory=dict)
    per_token: FloatArrays = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] | None = None
    states: Tensor | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def first_sequence(self) -> IntArray:
        """Example i has the sequences [first_sequence[i], first_sequence[i + 1]), int64[N + 1]."""
        num_pieces = np.diff(self.first_piece)
        counts = np.where(num_pieces == 1, 1, num_pieces - 1)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])

    def piece_lengths(self, index: int) -> tuple[int, ...]:
        """Tokens of each piece of one example: (all,) or (prefix, branch, branch, ...)."""
        start, end = self.first_piece[index], self.first_piece[index + 1]
        return tuple(int(size) for size in self.piece_sizes[start:end])

    def num_sequences(self, index: int) -> int:
        """How many sequences one example holds: 1, or as many as it has branches."""
        return int(self.first_sequence[index + 1] - self.first_sequence[index])

    @cached_property
    def lengths(self) -> IntArray:
        """Number of tokens of each example, int64[N]."""
        return np.diff(self.offsets)

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all examples."""
        return int(self.offsets[-1])

    @property
    def num_trained_tokens(self) -> int:
        """Number of tokens with a loss weight above zero."""
        return int(np.count_nonzero(self.weights))

    def example(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Ids and weights of one example, as views of the flat arrays."""
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.ids[start:end], self.weights[start:end]

    def tokens_of(self, indices: Sequence[int]) -> IntArray:
        """The places of all tokens of these examples, laid end to end."""
        return _gather(self.offsets, np.asarray(indices, dtype=np.int64))[1]

    def ref(self, index: int) -> RowRef:
        """Where example `index` came from."""
        number, line, position = (int(value) for value in self.refs[index])
        dataset, file = self.files[number]
        return RowRef(dataset, file, line, position)

    def content_hash(self) -> str:
        """SHA-256 over all but the references: equal stores train equally."""
        digest = hashlib.sha256()
        arrays: list[tuple[npt.NDArray[Any], str]]
        arrays = [(self.offsets, "<i8"), (self.ids, "<i4"), (self.weights, "<f4")]
        if len(self.piece_sizes) != len(self):
            arrays += [(self.first_piece, "<i8"), (self.piece_sizes, "<i8")]
        for values, kind in arrays:
            digest.update(np.ascontiguousarray(values.astype(kind, copy=False)).data)
        for numbers in (self.per_example, self.per_sequence, self.per_token):
            for name in sorted(numbers):
                digest.update(name.encode() + np.ascontiguousarray(numbers[name].astype("<f8")).tobytes())
        for row in self.rows or ():
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "replace"))
        return digest.hexdigest()

    def with_values(
        self,
        *,
        per_example: FloatArrays | None = None,
        per_sequence: FloatArrays | None = None,
        per_token: FloatArrays | None = None,
    ) -> ExampleStore:
        """The same examples with these numbers beside the ones they have."""
        num_sequences = int(self.first_sequence[-1])
        assert all(len(values) == len(self) for values in (per_example or {}).values())
        assert all(len(values) == num_sequences for values in (per_sequence or {}).values())
        assert all(len(values) == self.num_tokens for values in (per_token or {}).values())
        return replace(
            self,
            per_example={**self.per_example, **(per_example or {})},
            per_sequence={**self.per_sequence, **(per_sequence or {})},
            per_token={**self.per_token, **(per_token or {})},
        )

    def select(self, indices: Sequence[int] | IntArray) -> ExampleStore:
        """A store of these examples in this order; an index may occur more than once."""
        chosen = np.asarray(indices, dtype=np.int64)
        offsets, tokens = _gather(self.offsets, chosen)
        first_piece, pieces = _gather(self.first_piece, chosen)
        _, sequences = _gather(self.first_sequence, chosen)
        return ExampleStore(
            self.ids[tokens],
            self.weights[tokens],
            offsets,
            self.refs[chosen],
            self.files,
            first_piece,
            self.piece_sizes[pieces],
            {name: values[chosen] for name, values in self.per_example.items()},
            {name: values[sequences] for name, values in self.per_sequence.items()},
            {name: values[tokens] for name, values in self.per_token.items()},
            None if self.rows is None else tuple(self.rows[index] for index in chosen),
        )

    def branch(self, number: int) -> ExampleStore:
        """The same examples with one of their branches each: [prefix | branch `number`, 0-based]."""
        assert (np.diff(self.first_piece) > number + 1).all(), "every example has the branch"
        pieces = self.first_piece[:-1, None] + np.array([0, number + 1])
        piece_borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.piece_sizes, dtype=np.int64)])
        borders, tokens = _gather(piece_borders, pieces.reshape(-1))
        sequences = self.first_sequence[:-1] + number
        return replace(
            self,
            ids=self.ids[tokens],
            weights=self.weights[tokens],
            offsets=borders[::2],
            first_piece=np.arange(0, 2 * len(self) + 1, 2, dtype=np.int64),
            piece_sizes=np.diff(borders),
            per_sequence={name: values[sequences] for name, values in self.per_sequence.items()},
            per_token={name: values[tokens] for name, values in self.per_token.items()},
            states=None if self.states is None else self.states[tokens],
        )

    def unfold(self, indices: Sequence[int]) -> ExampleStore:
        """Every sequence of these examples as an example of its own, its prefix repeated."""
        tokens, sizes, owners = [], [], []
        for index in indices:
            pieces = self.piece_lengths(index)
            borders = self.offsets[index] + np.cumsum((0, *pieces))
            prefix = np.arange(borders[0], borders[1])
            branches = [np.arange(a, b) for a, b in pairwise(borders[1:])]
            for branch in branches or [prefix[:0]]:
                tokens.append(np.concatenate([prefix, branch]))
                sizes.append(len(tokens[-1]))
                owners.append(index)
        chosen = np.concatenate(tokens)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        numbers = np.arange(len(sizes) + 1, dtype=np.int64)
        lengths = np.asarray(sizes, dtype=np.int64)
        return ExampleStore(
            self.ids[chosen], self.weights[chosen], offsets, self.refs[owners], self.files, numbers, lengths
        )


def _gather(borders: IntArray, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """Borders of the chosen groups laid end to end, and the positions of their members in the old order."""
    sizes = np.diff(borders)[chosen]
    new_borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
    positions = np.arange(new_borders[-1], dtype=np.int64)
    positions += np.repeat(borders[:-1][chosen] - new_borders[:-1], sizes)
    return new_borders, positions


class StoreBuilder:
    """Collects examples one by one, in arrays that grow in place."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._weights = array("f")
        self._offsets = array("q", [0])
        self._refs = array("q")
        self._first_piece = array("q", [0])
        self._piece_sizes = array("q")
        self._numbers: dict[str, array[float]] = {}
        self._rows: list[Mapping[str, Any]] = []
        self._files: dict[tuple[str, str], int] = {}
        assert self._ids.itemsize == 4  # int32; true of every platform that torch supports

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(
        self,
        ids: Sequence[int],
        weights: Sequence[float],
        ref: RowRef,
        piece_lengths: Sequence[int] | None = None,
        numbers: Mapping[str, float] | None = None,
        row: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one example of at least one token.

        Args:
            piece_lengths: (prefix, branch, ...) of several pieces, adding up to all tokens; None: one sequence.
            numbers: entries of `per_example`; `row`: the row's fields. Both for all examples or for none.
        """
        assert len(ids) == len(weights) > 0
        sizes = (len(ids),) if piece_lengths is None else tuple(piece_lengths)
        assert sum(sizes) == len(ids)
        assert len(sizes) == 1 or all(size > 0 for size in sizes[1:])
        self._ids.extend(ids)
        self._weights.extend(weights)
        self._offsets.append(len(self._ids))
        self._piece_sizes.extend(sizes)
        self._first_piece.append(len(self._piece_sizes))
        number = self._files.setdefault((ref.dataset, ref.file), len(self._files))
        self._refs.extend((number, ref.line, ref.index))
        for name, value in (numbers or {}).items():
            self._numbers.setdefault(name, array("d")).append(value)
        if row is not None:
            self._rows.append(row)

    def build(self) -> ExampleStore:
        """The store of everything added; the builder must not be used afterwards."""
        assert len(self._rows) in (0, len(self))
        assert all(len(values) == len(self) for values in self._numbers.values())
        return ExampleStore(
            np.frombuffer(self._ids, dtype=np.int32) if self._ids else np.empty(0, np.int32),
            np.frombuffer(self._weights, dtype=np.float32) if self._weights else np.empty(0, np.float32),
            np.frombuffer(self._offsets, dtype=np.int64),
            np.frombuffer(self._refs, dtype=np.int64).reshape(-1, 3) if self._refs else np.empty((0, 3), np.int64),
            tuple(self._files),
            np.frombuffer(self._first_piece, dtype=np.int64),
            np.frombuffer(self._piece_sizes, dtype=np.int64) if self._piece_sizes else np.empty(0, np.int64),
            {name: np.frombuffer(values, dtype=np.float64) for name, values in self._numbers.items()},
            rows=tuple(self._rows) or None,
        )
