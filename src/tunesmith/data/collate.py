"""Examples -> one flat row of tensors: (input, target, position, document) per token, no padding between.

The target of a position is the *next* token of the same document, so the last token of a document has
none, and nothing downstream has to shift. A row is padded only when it is empty (a rank's place holder).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

IGNORED = -100


class Examples(Protocol):
    """What a row is built from; `data.store.ExampleStore` is one."""

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(input_ids int32[T], weights float32[T]) of one example."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A flat micro-batch: B = 1 row of T tokens holding S documents.

    `input_ids_BT`, `targets_BT` (int64, IGNORED where nothing is learnt), `weights_BT` (fp32, weight of the
    target), `positions_BT` (restart at 0 in each document), `segments_BT` (document number from 1; 0: padding).
    `document_bounds` are S + 1 token offsets.
    """

    input_ids_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    document_bounds: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads (padding not counted)."""
        return int((self.segments_BT > 0).sum())

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.input_ids_BT.to(device, non_blocking=True),
            self.targets_BT.to(device, non_blocking=True),
            self.weights_BT.to(device, non_blocking=True),
            self.positions_BT.to(device, non_blocking=True),
            self.segments_BT.to(device, non_blocking=True),
            self.document_bounds,
        )


def collate(examples: Examples, indices: Sequence[int]) -> Batch:
    """Lay the examples end to end. No indices: a one-token row of weight zero, so that every rank has work."""
    if not indices:
        zero, none = torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), IGNORED)
        return Batch(zero, none, torch.zeros(1, 1), zero, zero, (0, 1))
    ids, targets, weights, positions, segments, bounds = [], [], [], [], [], [0]
    for number, index in enumerate(indices, start=1):
        token_ids, token_weights = examples.example(index)
        num_tokens = len(token_ids)
        ids.append(token_ids)
        next_ids = np.full(num_tokens, IGNORED, dtype=np.int64)
        next_weights = np.zeros(num_tokens, dtype=np.float32)
        next_weights[:-1] = token_weights[1:]
        next_ids[:-1] = np.where(next_weights[:-1] != 0, token_ids[1:], IGNORED)
        targets.append(next_ids)
        weights.append(next_weights)
        positions.append(np.arange(num_tokens, dtype=np.int64))
        segments.append(np.full(num_tokens, number, dtype=np.int64))
        bounds.append(bounds[-1] + num_tokens)

    def row(parts: list[np.ndarray], dtype: type) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(dtype)[None])

    return Batch(
        row(ids, np.int64),
        row(targets, np.int64),
        row(weights, np.float32),
        row(positions, np.int64),
        row(segments, np.int64),
        tuple(bounds),
    )
