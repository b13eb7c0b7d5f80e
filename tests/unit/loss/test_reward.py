"""The reward model's loss by hand, its gradient, ties and extreme scores."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.loss.reward import pairwise_loss, score_metrics


def test_a_pair_by_hand() -> None:
    """Difference ln 3: -log(3/4). A margin of ln 3 leaves nothing: log 2. The centre adds 0.1 x (2 ln 3)^2."""
    chosen, rejected = torch.tensor([1.5 * math.log(3)]).double(), torch.tensor([0.5 * math.log(3)]).double()
    assert float(pairwise_loss(chosen, rejected)) == pytest.approx(math.log(4 / 3), abs=1e-6)
    margin = torch.tensor([math.log(3)]).double()
    assert float(pairwise_loss(chosen, rejected, margin_P=margin)) == pytest.approx(math.log(2), abs=1e-6)
    centred = pairwise_loss(chosen, rejected, center=0.1)
    assert float(centred) == pytest.approx(math.log(4 / 3) + 0.1 * 4 * math.log(3) ** 2, abs=1e-6)


def test_gradients_are_those_of_the_value() -> None:
    inputs = [torch.linspace(-2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    inputs[1] = (inputs[1].detach() * -0.7).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, r, m: pairwise_loss(c, r, margin_P=m, center=0.03), inputs)


def test_far_scores_stay_finite_and_a_tie_is_not_right() -> None:
    chosen = torch.tensor([1e5, -1e5, 3.0], requires_grad=True)
    rejected = torch.tensor([-1e5, 1e5, 3.0])
    loss_P = pairwise_loss(chosen, rejected)
    loss_P.sum().backward()
    assert loss_P.tolist() == pytest.approx([0.0, 2e5, math.log(2)])
    assert chosen.grad.tolist() == [0.0, -1.0, -0.5]
    metrics = score_metrics(chosen, rejected)
    assert [float(x) for x in metrics["accuracy"]] == [1.0, 3.0]
    assert [float(x) for x in metrics["margin"]] == [0.0, 3.0]
    assert not metrics["margin"][0].requires_grad


def test_no_pairs_give_no_losses() -> None:
    empty = torch.zeros(0, requires_grad=True)
    pairwise_loss(empty, empty, center=0.1).sum().backward()
    assert empty.grad.shape == (0,)
