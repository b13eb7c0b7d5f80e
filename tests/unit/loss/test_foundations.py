"""What the losses stand on: sums per sequence, moments that add up, logarithms at their ends."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.loss.logspace import LOG_RATIO_LIMIT, held_log_ratio, log1mexp
from tunesmith.loss.moments import Moments, whiten
from tunesmith.loss.segments import (
    last_of_sequence,
    position_in_sequence,
    sequence_counts,
    sequence_mean,
    sequence_sum,
    to_padded,
)

SEQUENCE_N = torch.tensor([2, 0, 2, 2, 0])


def test_sums_means_and_positions_per_sequence() -> None:
    values_N = torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0])
    assert sequence_counts(SEQUENCE_N, 4).tolist() == [2, 0, 3, 0]
    assert sequence_sum(values_N, SEQUENCE_N, 4).tolist() == [10.0, 0.0, 9.0, 0.0]
    assert sequence_mean(values_N, SEQUENCE_N, 4).tolist() == [5.0, 0.0, 3.0, 0.0]
    position_N = position_in_sequence(SEQUENCE_N, 4)
    assert position_N.tolist() == [0, 0, 1, 2, 1]
    assert last_of_sequence(SEQUENCE_N, 4).tolist() == [False, False, False, True, True]
    padded = to_padded(values_N, SEQUENCE_N, position_N, 4)
    assert padded.tolist() == [[2, 8, 0], [0, 0, 0], [1, 3, 5], [0, 0, 0]]


def test_moments_of_parts_are_those_of_the_whole() -> None:
    """Added as sums (ranks) or merged as moments (batches): the mean and deviation of all values."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).double() * 3 + 7
    added = Moments.from_sums(Moments.sums(values[:20]) + Moments.sums(values[20:]))
    merged = Moments.from_sums(Moments.sums(values[:20])).merge(Moments.from_sums(Moments.sums(values[20:])))
    for moments in (added, merged):
        assert moments.count == 50
        assert moments.mean == pytest.approx(float(values.mean()), rel=1e-12)
        assert moments.std == pytest.approx(float(values.std()), rel=1e-10)


def test_a_large_mean_does_not_eat_the_deviation() -> None:
    """1000 +- 0.01 in fp32 values: the sum of squares alone, in fp32, would leave nothing."""
    values = 1000 + 0.01 * torch.randn(1000, generator=torch.Generator().manual_seed(1))
    assert Moments.from_sums(Moments.sums(values)).std == pytest.approx(float(values.double().std()), rel=1e-6)


def test_moments_of_few_values() -> None:
    assert Moments.from_sums(Moments.sums(torch.zeros(0))) == Moments()
    assert Moments().merge(Moments()) == Moments()
    one = Moments.from_sums(Moments.sums(torch.tensor([4.0])))
    assert (one.mean, one.std) == (4.0, 0.0)
    assert Moments().merge(one) == one
    assert whiten(torch.full((3,), 4.0), Moments(3.0, 4.0, 0.0)).tolist() == [0.0, 0.0, 0.0]


def test_whitening_by_hand() -> None:
    """1, 3: mean 2, deviation sqrt 2."""
    moments = Moments.from_sums(Moments.sums(torch.tensor([1.0, 3.0])))
    values = torch.tensor([1.0, 3.0])
    assert whiten(values, moments).tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])
    assert whiten(values, moments, shift_mean=False).tolist() == pytest.approx([2 - math.sqrt(0.5), 2 + math.sqrt(0.5)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mexp_is_exact_in_the_middle_and_finite_at_the_ends(dtype: torch.dtype) -> None:
    logp = torch.tensor([0.0, -1e-20, -1e-4, -0.5, -0.7, -3.0, -50.0, -1e4], dtype=dtype, requires_grad=True)
    result = log1mexp(logp)
    (gradient,) = torch.autograd.grad(result.sum(), logp)
    assert torch.isfinite(result).all()
    assert torch.isfinite(gradient).all()
    expected = [math.log(-math.expm1(x)) if x > -math.log(2) else math.log1p(-math.exp(x)) for x in logp[2:].tolist()]
    assert result[2:].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-30)
    assert torch.autograd.gradcheck(log1mexp, [torch.tensor([-0.01, -0.5, -0.7, -9.0]).double().requires_grad_()])


def test_a_held_ratio_is_the_ratio_inside_its_limits() -> None:
    p, q = torch.tensor([-1.0, -100.0, 0.0]), torch.tensor([-3.0, 0.0, -100.0])
    assert held_log_ratio(p, q).tolist() == [2.0, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT]
    assert torch.isfinite(held_log_ratio(p, q).exp()).all()
