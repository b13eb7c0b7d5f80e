"""The pieces of PPO by hand, their gradients, ragged answers, and ratios that would overflow."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.loss.moments import Moments
from tunesmith.loss.policy import (
    KlController,
    Rollout,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantages,
    kl_k1,
    kl_k2,
    kl_k3,
    normalised_scores,
    ppo_loss,
    shaped_rewards,
)


def test_advantages_by_hand() -> None:
    """Answer 0: rewards 0 0 1, values 0.5 0.4 0.3, lambda 0.5; answer 2 has one token; answer 1 has none."""
    sequence_N = torch.tensor([0, 0, 0, 2])
    reward_N, value_N = torch.tensor([0.0, 0.0, 1.0, 2.0]), torch.tensor([0.5, 0.4, 0.3, 1.5])
    advantage_N, return_N = generalised_advantages(reward_N, value_N, sequence_N, 3, gamma=1.0, lam=0.5)
    assert advantage_N.tolist() == pytest.approx([0.025, 0.25, 0.7, 0.5])
    assert return_N.tolist() == pytest.approx([0.525, 0.65, 1.0, 2.0])


def test_an_answer_has_the_advantages_it_has_alone() -> None:
    """Packing order and neighbours do not matter: tokens of two answers mixed, each in its own order."""
    generator = torch.Generator().manual_seed(0)
    reward_N, value_N = torch.randn(2, 7, generator=generator).double().unbind()
    mixed_N = torch.tensor([1, 0, 1, 1, 0, 1, 0])
    together, _ = generalised_advantages(reward_N, value_N, mixed_N, 2, gamma=0.9)
    for answer in (0, 1):
        own = mixed_N == answer
        alone, _ = generalised_advantages(
            reward_N[own], value_N[own], torch.zeros(int(own.sum()), dtype=torch.long), 1, gamma=0.9
        )
        torch.testing.assert_close(together[own], alone)


def test_no_tokens_have_no_advantages() -> None:
    empty, none = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert [x.shape for x in generalised_advantages(empty, empty, none, 2)] == [(0,), (0,)]
    assert shaped_rewards(torch.ones(2), empty, empty, none, kl_coef=0.1).shape == (0,)


def test_rewards_by_hand() -> None:
    """0.5 x (log p - log ref) taken off everywhere; the scores 3 and 7 land on the last tokens."""
    logp_N, ref_N = torch.tensor([-1.0, -2.0, -1.0]), torch.tensor([-3.0, -1.0, -1.0])
    reward_N = shaped_rewards(torch.tensor([3.0, 7.0]), logp_N, ref_N, torch.tensor([0, 0, 1]), kl_coef=0.5)
    assert reward_N.tolist() == [-1.0, 3.5, 7.0]


def test_scores_are_normalised_then_clipped() -> None:
    moments = Moments.from_sums(Moments.sums(torch.tensor([1.0, 3.0])))
    assert normalised_scores(torch.tensor([2.0, 100.0]), moments, 5.0).tolist() == [0.0, 5.0]
    assert normalised_scores(torch.tensor([2.0]), moments).tolist() == [0.0]
    assert normalised_scores(torch.tensor([-9.0]), None, 5.0).tolist() == [-5.0]
    assert normalised_scores(torch.tensor([2.5]), Moments(1.0, 2.0, 0.0)).tolist() == [0.5]


def test_the_ratio_is_clipped_only_where_it_gains() -> None:
    """Ratios 2 and 1/2 with advantages +1 and -1: four cases, two of them clipped, without gradient."""
    logp_N = torch.tensor([2.0, 2.0, 0.5, 0.5], dtype=torch.float64).log().requires_grad_()
    advantage_N = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    loss_N, clipped_N = clipped_policy_loss(logp_N, torch.zeros(4).double(), advantage_N, clip_low=0.2, clip_high=0.3)
    loss_N.sum().backward()
    assert loss_N.tolist() == pytest.approx([-1.3, 2.0, -0.5, 0.8])
    assert clipped_N.tolist() == [True, False, False, True]
    assert logp_N.grad.tolist() == pytest.approx([0.0, 2.0, -0.5, 0.0])


def test_the_value_is_held_near_the_old_one() -> None:
    """Old value 0, clip 0.2: a value of 1 with return 1 is judged as 0.2; a value of 0.1 as it is."""
    value_N = torch.tensor([1.0, 0.1], requires_grad=True)
    loss_N, clipped_N = clipped_value_loss(value_N, torch.zeros(2), torch.ones(2))
    loss_N.sum().backward()
    assert loss_N.tolist() == pytest.approx([0.32, 0.405])
    assert clipped_N.tolist() == [True, False]
    assert value_N.grad.tolist() == pytest.approx([0.0, -0.9])


def test_gradients_are_those_of_the_value() -> None:
    generator = torch.Generator().manual_seed(1)
    logp, old, advantage, value, target = torch.randn(5, 6, generator=generator).double().unbind()
    checks = [
        (lambda x: clipped_policy_loss(x, old, advantage)[0], logp),
        (lambda x: clipped_value_loss(x, value, target)[0], old),
        (lambda x: kl_k1(x, old), logp),
        (lambda x: kl_k2(x, old), logp),
        (lambda x: kl_k3(x, old), logp),
    ]
    for function, start in checks:
        assert torch.autograd.gradcheck(function, [start.clone().requires_grad_()])


def test_the_estimators_estimate_the_divergence() -> None:
    """Weighted by p over the whole alphabet, k1 and k3 are KL(p || q) exactly; k2 only nearly."""
    generator = torch.Generator().manual_seed(2)
    p, q = torch.randn(2, 8, generator=generator).double().log_softmax(-1).unbind()
    divergence = float((p.exp() * (p - q)).sum())
    assert float((p.exp() * kl_k1(p, q)).sum()) == pytest.approx(divergence, abs=1e-12)
    assert float((p.exp() * kl_k3(p, q)).sum()) == pytest.approx(divergence, abs=1e-12)
    assert (kl_k3(p, q) >= 0).all()
    close = (p + 0.01 * q).log_softmax(-1)
    assert float((p.exp() * kl_k2(p, close)).sum()) == pytest.approx(float((p.exp() * (p - close)).sum()), rel=0.05)


def test_a_token_that_became_impossible_or_certain_stays_finite() -> None:
    logp_N = torch.tensor([-1e4, 0.0, -1e4, 0.0], requires_grad=True)
    old_N = torch.tensor([0.0, -1e4, 0.0, -1e4])
    advantage_N = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss_N, _ = clipped_policy_loss(logp_N, old_N, advantage_N)
    total = loss_N.sum() + kl_k3(logp_N, old_N).sum()
    total.backward()
    assert torch.isfinite(loss_N).all()
    assert torch.isfinite(logp_N.grad).all()


def test_the_loss_of_an_update_is_a_sum_and_a_count() -> None:
    """Cut in two, sums and weights add up to those of the whole, metrics too."""
    generator = torch.Generator().manual_seed(4)
    logp, value, *recorded = torch.randn(6, 8, generator=generator).double().unbind()
    whole = ppo_loss(logp, value, Rollout(*recorded))
    parts = [
        ppo_loss(logp[cut], value[cut], Rollout(*(x[cut] for x in recorded))) for cut in (slice(0, 3), slice(3, 8))
    ]
    assert float(whole.loss_sum) == pytest.approx(sum(float(part.loss_sum) for part in parts))
    assert [float(part.weight) for part in parts] == [3.0, 5.0]
    for name, (total, weight) in whole.metrics.items():
        assert float(total) == pytest.approx(sum(float(part.metrics[name][0]) for part in parts)), name
        assert float(weight) == 8.0
    policy, error = (
        clipped_policy_loss(logp, recorded[0], recorded[2])[0],
        clipped_value_loss(value, recorded[1], recorded[3])[0],
    )
    assert float(whole.loss_sum) == pytest.approx(float(policy.sum() + 0.1 * error.sum()))


def test_the_controller_raises_lowers_or_keeps_the_coefficient() -> None:
    start = KlController(coef=0.2, target=6.0, horizon=1000)
    assert start.after(12.0, 100).coef == pytest.approx(0.2 * 1.02)  # the error is held at +20 %
    assert start.after(5.4, 100).coef == pytest.approx(0.2 * 0.99)
    assert start.after(0.0, 100).coef == pytest.approx(0.2 * 0.98)
    fixed = KlController(coef=0.2, target=None)
    assert fixed.after(50.0, 100) is fixed
    assert math.isclose(start.after(6.0, 100).coef, 0.2)
