"""DFT, EAFT, ASFT and label smoothing by hand; weights that carry no gradient; chunks."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.loss.reweight import (
    asft_loss,
    dft_loss,
    eaft_loss,
    mean_logp,
    reference_kl_function,
    smoothed_loss,
    topk_entropy,
    weighted_sum,
)

EVERY = slice(None)


def test_dft_by_hand() -> None:
    """-0.25 ln 0.25, and a gradient of -0.25: the probability is a weight, not a function."""
    logp_N = torch.tensor([math.log(0.25)], dtype=torch.float64, requires_grad=True)
    loss_N = dft_loss(logp_N)
    loss_N.sum().backward()
    assert float(loss_N) == pytest.approx(-0.25 * math.log(0.25))
    assert float(logp_N.grad) == pytest.approx(-0.25)


def test_eaft_by_hand() -> None:
    """Entropy 1.5 over 3, squared: a quarter of the cross-entropy, in value and gradient; alpha 0 is none of it."""
    logp_N = torch.tensor([-2.0], requires_grad=True)
    loss_N = eaft_loss(logp_N, torch.tensor([1.5]), alpha=2.0)
    loss_N.sum().backward()
    assert float(loss_N) == pytest.approx(0.5)
    assert float(logp_N.grad) == pytest.approx(-0.25)
    assert float(eaft_loss(logp_N, torch.tensor([0.0]), alpha=0.0)) == 2.0


def test_the_entropy_is_of_the_twenty_likeliest_and_has_no_gradient() -> None:
    """20 equal logits far above 80 others: log 20 nats. One certain token: 0. Eight tokens in all: log 8."""
    logits = torch.zeros(2, 100, requires_grad=True)
    raised = logits + torch.cat([torch.full((1, 20), 50.0), torch.zeros(1, 80)], dim=1)
    entropy_C = topk_entropy(raised, torch.zeros(2, dtype=torch.long), EVERY)["entropy"]
    assert not entropy_C.requires_grad
    assert entropy_C.tolist() == pytest.approx([math.log(20)] * 2)
    flat = torch.zeros(1, 100)
    assert float(topk_entropy(flat, torch.zeros(1), EVERY)["entropy"]) == pytest.approx(math.log(20))
    flat[0, 3] = 1e4
    assert float(topk_entropy(flat, torch.zeros(1), EVERY)["entropy"]) == 0.0
    assert float(topk_entropy(torch.zeros(1, 8), torch.zeros(1), EVERY)["entropy"]) == pytest.approx(math.log(8))


def test_asft_by_hand() -> None:
    """Reference (0.9, 0.1), policy (0.5, 0.5): KL 0.368064; the reference gets no gradient."""
    policy = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.9, 0.1]]).double().log().requires_grad_()
    kl_C = reference_kl_function(lambda part: reference[part])(policy, torch.zeros(1), EVERY)["kl"]
    expected = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert float(kl_C) == pytest.approx(expected, abs=1e-7)
    loss = asft_loss(torch.tensor([math.log(0.5)]).double(), kl_C, alpha=0.5)
    assert float(loss) == pytest.approx(0.5 * math.log(2) + 0.5 * expected, abs=1e-7)
    loss.sum().backward()
    assert reference.grad is None
    assert policy.grad[0].tolist() == pytest.approx([0.5 * (0.5 - 0.9), 0.5 * (0.5 - 0.1)], abs=1e-7)


def test_smoothing_by_hand() -> None:
    """Four equal tokens: every log-probability is -ln 4, so smoothing changes nothing."""
    logits = torch.zeros(1, 4)
    mean_C = mean_logp(logits, torch.zeros(1), EVERY)["mean_logp"]
    assert float(mean_C) == pytest.approx(-math.log(4))
    assert float(smoothed_loss(torch.tensor([-math.log(4)]), mean_C, epsilon=0.3)) == pytest.approx(math.log(4))
    assert float(smoothed_loss(torch.tensor([-1.0]), torch.tensor([-5.0]), epsilon=0.25)) == 2.0


def test_gradients_are_those_of_the_value() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 3, 7, generator=generator).double().unbind()
    targets = torch.tensor([1, 5, 0])
    kl = reference_kl_function(lambda part: reference[part])
    leaf = [logits.clone().requires_grad_()]
    assert torch.autograd.gradcheck(lambda x: kl(x, targets, EVERY)["kl"], leaf)
    assert torch.autograd.gradcheck(lambda x: mean_logp(x, targets, EVERY)["mean_logp"], leaf)


def test_huge_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    kl_C = reference_kl_function(lambda part: -logits.detach()[part])(logits, torch.zeros(1), EVERY)["kl"]
    mean_C = mean_logp(logits, torch.zeros(1), EVERY)["mean_logp"]
    loss_N = asft_loss(torch.tensor([-2e4]), kl_C) + smoothed_loss(torch.tensor([-2e4]), mean_C, epsilon=0.1)
    loss_N.sum().backward()
    assert torch.isfinite(loss_N).all()
    assert torch.isfinite(logits.grad).all()


def test_the_reference_is_asked_for_the_chunk() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, reference = torch.randn(2, 5, 7, generator=generator).unbind()
    function = reference_kl_function(lambda part: reference[part])
    whole = function(logits, torch.zeros(5), slice(0, 5))["kl"]
    chunks = [function(logits[part], torch.zeros(2), part)["kl"] for part in (slice(0, 2), slice(2, 4), slice(4, 5))]
    torch.testing.assert_close(torch.cat(chunks), whole)


def test_a_sum_and_its_weight() -> None:
    total, weight = weighted_sum(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 0.25]))
    assert (float(total), float(weight)) == (3.0, 1.25)
    empty = weighted_sum(torch.zeros(0), torch.zeros(0))
    assert [float(x) for x in empty] == [0.0, 0.0]
