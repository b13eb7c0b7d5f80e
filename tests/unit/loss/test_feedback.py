"""KTO by hand, its gradient, and batches with one kind of answer only."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.loss.feedback import chosen_token_loss, feedback_metrics, kl_estimate, kto_loss


def test_kto_by_hand() -> None:
    """beta x (score - kl) = ln 3 for both: 1 - 3/4 for the good answer, 1 - 1/4 for the bad one, each x its weight."""
    score_S = torch.tensor([math.log(3) / 0.5 + 0.2] * 2, dtype=torch.float64)
    label_S = torch.tensor([True, False])
    ref_S = torch.tensor([-1.0, -7.0], dtype=torch.float64)
    out = kto_loss(score_S + ref_S, ref_S, label_S, kl=0.2, beta=0.5, chosen_weight=2.0, rejected_weight=4.0)
    assert out.loss_S.tolist() == pytest.approx([0.5, 3.0])
    assert out.reward_S.tolist() == pytest.approx([math.log(3) + 0.1] * 2)


def test_the_estimate_is_a_mean_that_is_never_negative() -> None:
    assert kl_estimate(3.0, 4.0) == 0.75
    assert kl_estimate(-3.0, 4.0) == 0.0
    assert kl_estimate(0.0, 0.0) == 0.0


def test_gradients_are_those_of_the_value() -> None:
    label_S = torch.tensor([True, False, True, False])
    inputs = [torch.linspace(-9, 2, 4, dtype=torch.float64, requires_grad=True)]
    ref_S = torch.linspace(-4, -3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda logp: kto_loss(logp, ref_S, label_S, kl=0.3, rejected_weight=0.6).loss_S, inputs
    )


@pytest.mark.parametrize("label", [True, False])
def test_answers_of_one_kind_and_far_away_stay_finite(label: bool) -> None:
    logp_S = torch.tensor([-1e4, 0.0, -1e4, -5.0], requires_grad=True)
    ref_S = torch.tensor([0.0, -1e4, -1e4, -5.0])
    loss_S = kto_loss(logp_S, ref_S, torch.full((4,), label), kl=0.0).loss_S
    loss_S.sum().backward()
    assert loss_S.tolist() == pytest.approx([1.0, 0.0, 0.5, 0.5] if label else [0.0, 1.0, 0.5, 0.5])
    assert torch.isfinite(logp_S.grad).all()


def test_only_good_answers_carry_the_supervised_term() -> None:
    loss_S = chosen_token_loss(
        torch.tensor([-6.0, -6.0, 0.0]), torch.tensor([3, 3, 0]), torch.tensor([True, False, True])
    )
    assert loss_S.tolist() == [2.0, 0.0, 0.0]


def test_rewards_are_averaged_over_their_own_kind() -> None:
    metrics = feedback_metrics(torch.tensor([1.0, 2.0, -4.0]), torch.tensor([True, True, False]))
    assert [float(x) for x in metrics["rewards/chosen"]] == [3.0, 2.0]
    assert [float(x) for x in metrics["rewards/rejected"]] == [-4.0, 1.0]
