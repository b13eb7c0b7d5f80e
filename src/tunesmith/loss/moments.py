"""Mean and variance that can be shared between ranks, continued between updates, and saved as plain numbers.

Whitening and score normalisation divide by a standard deviation. Taken per micro-batch it would make an update depend
on how the batch was cut; so each rank hands in three sums, the sums of all ranks are added, and every rank computes
the same moments. The sums are float64: with a mean of 10 and a deviation of 0.01 the variance keeps ten digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """`count` values, their `mean`, and `squares`: the sum of squared deviations from that mean."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    @staticmethod
    def sums(values: Tensor) -> Tensor:
        """(count, sum, sum of squares), float64 (3,): what is added up over micro-batches and ranks."""
        doubles = values.detach().double()
        count = torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device)
        return torch.stack([count, doubles.sum(), doubles.square().sum()])

    @classmethod
    def from_sums(cls, sums_3: Tensor) -> Moments:
        """The moments behind `sums`, added up or not. No values: count 0."""
        count, total, total_squares = (float(number) for number in sums_3)
        if count == 0:
            return cls()
        mean = total / count
        return cls(count, mean, max(0.0, total_squares - count * mean * mean))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values together (Chan, Golub and LeVeque, 1983)."""
        count = self.count + other.count
        if count == 0:
            return Moments()
        shift = other.mean - self.mean
        mean = self.mean + shift * other.count / count
        squares = self.squares + other.squares + shift * shift * self.count * other.count / count
        return Moments(count, mean, squares)

    @property
    def variance(self) -> float:
        """With Bessel's correction; 0.0 for fewer than two values."""
        return self.squares / (self.count - 1) if self.count > 1 else 0.0

    @property
    def std(self) -> float:
        """Standard deviation, with Bessel's correction; 0.0 for fewer than two values."""
        return math.sqrt(self.variance)


WHITEN_EPSILON = 1e-8
"""Added to the variance, as in the implementation of Ziegler et al. 2019: equal values whiten to 0."""


def whiten(values: Tensor, moments: Moments, *, shift_mean: bool = True) -> Tensor:
    """Values of any shape to variance 1, and to mean 0 unless `shift_mean` is False (rewards keep their sign)."""
    scale = 1.0 / math.sqrt(moments.variance + WHITEN_EPSILON)
    whitened = (values - moments.mean) * scale
    return whitened if shift_mean else whitened + moments.mean
