"""GRPO and its forms by hand, their gradients, and what a cut of the batch may not change."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.loss.group import GROUP_FORMS, GroupTokens, group_advantages, group_loss
from tunesmith.loss.moments import Moments

CLIP = (0.2, 0.2)


def _tokens(seed: int, lengths: list[int]) -> GroupTokens:
    generator = torch.Generator().manual_seed(seed)
    sequence_N = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    logp, old, ref = torch.randn(3, sum(lengths), generator=generator).double().unbind()
    return GroupTokens(logp, old, ref, torch.randn(len(lengths), generator=generator).double(), sequence_N)


def _part(tokens: GroupTokens, answers: slice) -> GroupTokens:
    ids = torch.arange(tokens.advantage_S.numel())[answers]
    kept = torch.isin(tokens.sequence_N, ids)
    return GroupTokens(
        tokens.logp_N[kept],
        tokens.old_logp_N[kept],
        tokens.ref_logp_N[kept],
        tokens.advantage_S[answers],
        tokens.sequence_N[kept] - int(ids[0]),
    )


def test_advantages_by_hand() -> None:
    """Rewards 1 and 0: mean 0.5, deviation 0.7071. Equal rewards and a group of one: 0."""
    reward_S = torch.tensor([1.0, 0.0, 5.0, 5.0, 9.0])
    group_S = torch.tensor([0, 0, 1, 1, 2])
    expected = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert group_advantages(reward_S, group_S, 3).tolist() == pytest.approx([expected, -expected, 0, 0, 0])
    assert group_advantages(reward_S, group_S, 3, scale="none").tolist() == [0.5, -0.5, 0, 0, 0]
    batch = Moments(5.0, 4.0, 4 * 2.0**2)
    scaled = group_advantages(reward_S, group_S, 3, scale="batch", batch=batch)
    assert scaled.tolist() == pytest.approx([0.5 / 2.0001, -0.5 / 2.0001, 0, 0, 0])
    with pytest.raises(AssertionError, match="whole batch"):
        group_advantages(reward_S, group_S, 3, scale="batch")


@pytest.mark.parametrize(
    ("form", "total", "weight"), [("grpo", 0.0, 2.0), ("dapo", 2.0, 4.0), ("dr_grpo", 2.0, 16.0), ("gspo", 0.0, 2.0)]
)
def test_what_a_form_divides_by(form: str, total: float, weight: float) -> None:
    """Ratio 1; an answer of 1 token with advantage 1, one of 3 tokens with advantage -1; at most 8 tokens."""
    logp_N = torch.full((4,), -2.0)
    tokens = GroupTokens(logp_N, None, None, torch.tensor([1.0, -1.0]), torch.tensor([0, 1, 1, 1]))
    out = group_loss(tokens, form, clip=CLIP, max_tokens=8)
    assert (float(out.loss_sum), float(out.weight)) == (total, weight)


def test_gspo_takes_one_ratio_per_answer() -> None:
    """Log-ratios 0.3 and -0.1: the answer's ratio is e^0.1, and both tokens share its gradient."""
    logp_N = torch.tensor([0.3, -0.1], dtype=torch.float64, requires_grad=True)
    tokens = GroupTokens(logp_N, torch.zeros(2).double(), None, torch.ones(1).double(), torch.tensor([0, 0]))
    out = group_loss(tokens, "gspo", clip=CLIP)
    out.loss_sum.backward()
    assert float(out.loss_sum) == pytest.approx(-math.exp(0.1))
    assert logp_N.grad.tolist() == pytest.approx([-math.exp(0.1) / 2] * 2)


def test_the_kl_term_and_the_clipped_shares_by_hand() -> None:
    """Ratios 2, 2, 1/2, 1/2 with advantages +1, -1, +1, -1: the first and the last are clipped, one each way.

    The KL of log-ratio ln 2 is 2 - 1 - ln 2.
    """
    logp_N = torch.tensor([2.0, 2.0, 0.5, 0.5], dtype=torch.float64).log()
    advantage_S = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
    tokens = GroupTokens(logp_N, torch.zeros(4).double(), logp_N + math.log(2), advantage_S, torch.arange(4))
    out = group_loss(tokens, "dapo", clip=(0.2, 0.3), beta=0.5)
    assert float(out.loss_sum) == pytest.approx(-1.3 + 2.0 - 0.5 + 0.8 + 0.5 * 4 * (1 - math.log(2)))
    metrics = {name: (float(total), float(weight)) for name, (total, weight) in out.metrics.items()}
    assert metrics["clip_ratio/low"] == metrics["clip_ratio/high"] == (1.0, 4.0)
    assert metrics["kl"] == pytest.approx((4 * (1 - math.log(2)), 4.0))


@pytest.mark.parametrize("form", GROUP_FORMS)
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_gradients_are_those_of_the_value(form: str, beta: float) -> None:
    tokens = _tokens(0, [3, 0, 1, 2])

    def total(logp_N: torch.Tensor) -> torch.Tensor:
        given = GroupTokens(logp_N, tokens.old_logp_N, tokens.ref_logp_N, tokens.advantage_S, tokens.sequence_N)
        return group_loss(given, form, clip=CLIP, beta=beta, max_tokens=8).loss_sum

    assert torch.autograd.gradcheck(total, [tokens.logp_N.clone().requires_grad_()])


@pytest.mark.parametrize("form", GROUP_FORMS)
def test_a_cut_of_the_batch_changes_neither_sum_nor_weight(form: str) -> None:
    tokens = _tokens(1, [4, 1, 0, 5, 2])
    whole = group_loss(tokens, form, clip=CLIP, beta=0.1, max_tokens=5)
    parts = [
        group_loss(_part(tokens, answers), form, clip=CLIP, beta=0.1, max_tokens=5)
        for answers in (slice(0, 2), slice(2, 5))
    ]
    assert float(whole.loss_sum) == pytest.approx(sum(float(part.loss_sum) for part in parts))
    assert float(whole.weight) == sum(float(part.weight) for part in parts)


@pytest.mark.parametrize("form", GROUP_FORMS)
def test_no_answers_give_nothing(form: str) -> None:
    empty, none = torch.zeros(0, requires_grad=True), torch.zeros(0, dtype=torch.long)
    out = group_loss(GroupTokens(empty, None, empty, torch.zeros(0), none), form, clip=CLIP, beta=0.1, max_tokens=5)
    out.loss_sum.backward()
    assert (float(out.loss_sum), float(out.weight)) == (0.0, 0.0)


@pytest.mark.parametrize("form", GROUP_FORMS)
def test_a_ratio_that_would_overflow_stays_finite(form: str) -> None:
    logp_N = torch.tensor([-1e4, 0.0, -1e4, 0.0], requires_grad=True)
    old_N = torch.tensor([0.0, -1e4, 0.0, -1e4])
    tokens = GroupTokens(logp_N, old_N, old_N, torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.arange(4))
    out = group_loss(tokens, form, clip=CLIP, beta=0.1, max_tokens=5)
    out.loss_sum.backward()
    assert torch.isfinite(out.loss_sum)
    assert torch.isfinite(logp_N.grad).all()


def test_what_a_form_needs_is_asked_for() -> None:
    tokens = GroupTokens(torch.zeros(1), None, None, torch.zeros(1), torch.zeros(1, dtype=torch.long))
    with pytest.raises(AssertionError, match="longest answer"):
        group_loss(tokens, "dr_grpo", clip=CLIP)
    with pytest.raises(AssertionError, match="reference"):
        group_loss(tokens, "grpo", clip=CLIP, beta=0.1)
