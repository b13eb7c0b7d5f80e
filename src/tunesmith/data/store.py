"""The training examples as flat arrays: all token ids in one, all loss weights in another.

A Python list of ints costs 8 bytes per token and more for the numbers themselves; flat int32 and float32
arrays cost 8 bytes per token for ids and weights together, and the loop reads them without copying.
Row references are arrays too: a file number, a line and an index per example.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tunesmith.types import RowRef

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ExampleStore:
    """N examples of T tokens in all.

    Attributes:
        ids: token ids, int32[T].
        weights: loss weight of predicting each token, float32[T]; 0.0 is context only.
        offsets: example i is [offsets[i], offsets[i + 1]), int64[N + 1].
        refs: (number in `files`, line, index) of each example's row, int64[N, 3].
        files: (dataset, file) pairs that `refs` points into.
    """

    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    offsets: IntArray
    refs: IntArray
    files: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

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

    def ref(self, index: int) -> RowRef:
        """Where example `index` came from."""
        number, line, position = (int(value) for value in self.refs[index])
        dataset, file = self.files[number]
        return RowRef(dataset, file, line, position)

    def content_hash(self) -> str:
        """SHA-256 over ids, weights and offsets: equal stores train equally. References do not count."""
        digest = hashlib.sha256()
        for values, kind in ((self.offsets, "<i8"), (self.ids, "<i4"), (self.weights, "<f4")):
            digest.update(np.ascontiguousarray(values.astype(kind, copy=False)).data)
        return digest.hexdigest()

    def select(self, indices: Sequence[int] | IntArray) -> ExampleStore:
        """A store of these examples in this order; an index may occur more than once."""
        chosen = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[chosen]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
        positions = np.arange(offsets[-1], dtype=np.int64)
        positions += np.repeat(self.offsets[:-1][chosen] - offsets[:-1], lengths)
        return ExampleStore(self.ids[positions], self.weights[positions], offsets, self.refs[chosen], self.files)


class StoreBuilder:
    """Collects examples one by one, in arrays that grow in place."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._weights = array("f")
        self._offsets = array("q", [0])
        self._refs = array("q")
        self._files: dict[tuple[str, str], int] = {}
        assert self._ids.itemsize == 4  # int32; true of every platform that torch supports

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, ids: Sequence[int], weights: Sequence[float], ref: RowRef) -> None:
        """Append one example of at least one token."""
        assert len(ids) == len(weights) > 0
        self._ids.extend(ids)
        self._weights.extend(weights)
        self._offsets.append(len(self._ids))
        number = self._files.setdefault((ref.dataset, ref.file), len(self._files))
        self._refs.extend((number, ref.line, ref.index))

    def build(self) -> ExampleStore:
        """The store of everything added; the builder must not be used afterwards."""
        return ExampleStore(
            np.frombuffer(self._ids, dtype=np.int32) if self._ids else np.empty(0, np.int32),
            np.frombuffer(self._weights, dtype=np.float32) if self._weights else np.empty(0, np.float32),
            np.frombuffer(self._offsets, dtype=np.int64),
            np.frombuffer(self._refs, dtype=np.int64).reshape(-1, 3) if self._refs else np.empty((0, 3), np.int64),
            tuple(self._files),
        )
