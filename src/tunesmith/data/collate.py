"""Lay the examples of a micro-batch end to end in one flat row, without padding.

What the model predicts is a list beside the row: N times (where in the row, which token, with what weight).
A list rather than a second row, because the last token of a shared prompt predicts the first token of every
branch behind it. Positions restart with each example, and with each branch at the length of its prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.store import ExampleStore, FloatArrays

Document = tuple[int, ...]
"""Borders of a document's pieces in the row: (start, end) of a plain one, (start, end of the prefix, end of the
first branch, ...) of one with branches."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A flat micro-batch: B = 1 row of T tokens, E examples, S sequences, N supervised tokens in sequence order.

    Attributes:
        input_ids_BT, positions_BT: int64; the tokens and their positions.
        where_N, targets_N: int64; token `targets_N[n]` is predicted at row position `where_N[n]`.
        weights_N: fp32; its weight, never 0.
        sequence_N: int64; the sequence it belongs to, 0-based in the row.
        ends_S: int64; row position of the last token of each sequence.
        example_S: int64; the example of each sequence, 0-based in the row.
        documents: the borders of each example's pieces.
        indices: the examples, by their number in the store.
        states_TD: the states of frozen layers at every position, where the store keeps them.
        example_values, sequence_values, token_values: the store's numbers for these E, S, N, by name, fp32.

    The place holder of a rank without work has one token and E = S = N = 0.
    """

    input_ids_BT: Tensor
    positions_BT: Tensor
    where_N: Tensor
    targets_N: Tensor
    weights_N: Tensor
    sequence_N: Tensor
    ends_S: Tensor
    example_S: Tensor
    documents: tuple[Document, ...]
    indices: tuple[int, ...] = ()
    example_values: Mapping[str, Tensor] = field(default_factory=dict)
    sequence_values: Mapping[str, Tensor] = field(default_factory=dict)
    token_values: Mapping[str, Tensor] = field(default_factory=dict)
    states_TD: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads."""
        return self.input_ids_BT.shape[1] if self.indices else 0

    @property
    def num_sequences(self) -> int:
        """S."""
        return self.ends_S.shape[0]

    @property
    def num_examples(self) -> int:
        """E."""
        return len(self.indices)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            return {name: moved(one) for name, one in value.items()} if isinstance(value, Mapping) else value

        return Batch(**{item.name: moved(getattr(self, item.name)) for item in fields(self)})


def collate(store: ExampleStore, indices: Sequence[int]) -> Batch:
    """Lay the examples end to end. No indices: the place holder, so that every rank has work."""
    if not indices:
        return _place_holder(store)
    parts: list[_Sequence] = []
    documents: list[Document] = []
    positions = []
    start = 0
    for number, index in enumerate(indices):
        sizes = store.piece_lengths(index)
        documents.append(tuple(accumulate((start, *sizes))))
        positions += [np.arange(sizes[0]), *(np.arange(sizes[0], sizes[0] + size) for size in sizes[1:])]
        parts += _sequences(store, index, number, documents[-1])
        start = documents[-1][-1]
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in ("where", "tokens")]
    where_N, tokens_N = columns
    counts = [len(part.where) for part in parts]
    sequences = np.concatenate([np.arange(*store.first_sequence[[i, i + 1]]) for i in indices])
    ids = np.concatenate([store.example(index)[0] for index in indices])
    return Batch(
        _integers(ids)[None],
        _integers(np.concatenate(positions))[None],
        _integers(where_N),
        _integers(store.ids[tokens_N]),
        torch.from_numpy(store.weights[tokens_N].astype(np.float32)),
        _integers(np.repeat(np.arange(len(parts)), counts)),
        _integers(np.array([part.end for part in parts])),
        _integers(np.array([part.example for part in parts])),
        tuple(documents),
        tuple(int(index) for index in indices),
        _chosen(store.per_example, list(indices)),
        _chosen(store.per_sequence, sequences),
        _chosen(store.per_token, tokens_N),
        None if store.states is None else store.states[store.tokens_of(indices)],
    )


def supervised_places(store: ExampleStore, indices: Sequence[int]) -> np.ndarray:
    """Where in the store the N supervised tokens of `collate(store, indices)` stand, int64[N] in the batch's order."""
    found = [np.zeros(0, np.int64)]
    for index in indices:
        borders = tuple(accumulate((0, *store.piece_lengths(index))))
        found += [part.tokens for part in _sequences(store, index, 0, borders)]
    return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One sequence of the row: where its supervised tokens are predicted, and their places in the store."""

    where: np.ndarray
    tokens: np.ndarray
    end: int
    example: int


def _sequences(store: ExampleStore, index: int, number: int, borders: Document) -> list[_Sequence]:
    """The sequences of example `index`, which is example `number` of the row and begins at `borders[0]`."""
    shift = int(store.offsets[index]) - borders[0]  # from a place in the row to the place in the store
    if len(borders) == 2:
        return [_sequence(store, range(borders[0] + 1, borders[1]), borders[0], shift, number)]
    prefix_end = borders[1]
    found = []
    for start, end in pairwise(borders[1:]):
        if prefix_end > borders[0]:  # the last token of the prefix predicts the first of the branch
            found.append(_sequence(store, range(start, end), prefix_end - 1, shift, number))
        else:
            found.append(_sequence(store, range(start + 1, end), start, shift, number))
    return found


def _sequence(store: ExampleStore, own: range, before: int, shift: int, number: int) -> _Sequence:
    """A sequence whose tokens `own` may be predicted: the first at `before`, every other at the token before it."""
    own_T = np.arange(own.start, own.stop)
    predicted_at_T = own_T - 1
    predicted_at_T[:1] = before
    supervised = store.weights[own_T + shift] != 0
    return _Sequence(predicted_at_T[supervised], own_T[supervised] + shift, own.stop - 1, number)


def _place_holder(store: ExampleStore) -> Batch:
    zero, none, no_weight = torch.zeros(1, 1, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0)
    return Batch(
        zero, zero, none, none, no_weight, none, none, none, ((0, 1),), (),
        dict.fromkeys(store.per_example, no_weight),
        dict.fromkeys(store.per_sequence, no_weight),
        dict.fromkeys(store.per_token, no_weight),
    )  # fmt: skip


def _integers(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def _chosen(numbers: FloatArrays, places: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values[places].astype(np.float32)) for name, values in numbers.items()}
