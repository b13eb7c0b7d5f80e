"""Sums, means and positions per sequence, over flat token vectors.

A row holds several sequences; `sequence_N` says which one a token belongs to (0-based), in the row's order within
each sequence. Nothing is padded unless an algorithm runs along the sequence (`to_padded`). A sequence without tokens
has sum, mean and count 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_counts(sequence_N: Tensor, num_sequences: int) -> Tensor:
    """Tokens of each sequence, int64 (S,)."""
    return torch.bincount(sequence_N, minlength=num_sequences)


def sequence_sum(values_N: Tensor, sequence_N: Tensor, num_sequences: int) -> Tensor:
    """Sum of the values of each sequence, (S,), in the values' dtype."""
    return values_N.new_zeros(num_sequences).index_add(0, sequence_N, values_N)


def sequence_mean(values_N: Tensor, sequence_N: Tensor, num_sequences: int) -> Tensor:
    """Mean of the values of each sequence, (S,)."""
    counts_S = sequence_counts(sequence_N, num_sequences).clamp(min=1)
    return sequence_sum(values_N, sequence_N, num_sequences) / counts_S


def position_in_sequence(sequence_N: Tensor, num_sequences: int) -> Tensor:
    """How many tokens of its own sequence stand before each token, int64 (N,)."""
    order_N = torch.argsort(sequence_N, stable=True)
    counts_S = sequence_counts(sequence_N, num_sequences)
    starts_S = counts_S.cumsum(0) - counts_S
    place_N = torch.arange(sequence_N.numel(), device=sequence_N.device)
    position_N = torch.empty_like(sequence_N)
    position_N[order_N] = place_N - starts_S[sequence_N[order_N]]
    return position_N


def last_of_sequence(sequence_N: Tensor, num_sequences: int) -> Tensor:
    """Whether a token is the last of its sequence, bool (N,)."""
    counts_S = sequence_counts(sequence_N, num_sequences)
    return position_in_sequence(sequence_N, num_sequences) == counts_S[sequence_N] - 1


def to_padded(values_N: Tensor, sequence_N: Tensor, position_N: Tensor, num_sequences: int) -> Tensor:
    """The values as (S, longest sequence), zero where a sequence has ended."""
    longest = int(position_N.max()) + 1 if position_N.numel() else 0
    padded_SL = values_N.new_zeros(num_sequences, longest)
    padded_SL[sequence_N, position_N] = values_N
    return padded_SL
