"""Preference losses: worked by hand, gradients by finite differences, and numbers at which they could break."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tunesmith.config.fields.rlhf import RlhfOptions
from tunesmith.config.spec import read_fields
from tunesmith.loss.preference import (
    PREFERENCE_LOSSES,
    PairScores,
    PreferenceSettings,
    length_weights,
    pair_scores,
    preference_loss,
    reward_metrics,
)

SETTINGS = PreferenceSettings(beta=0.5, label_smoothing=0.1, discopop_tau=1.0, reward_mean=0.25)
BY_HAND = {  # scores 1 and -1: beta x margin = 1, log sigmoid(1) = -0.313262, log sigmoid(-1) = -1.313262
    "sigmoid": 0.9 * 0.313262 + 0.1 * 1.313262,
    "hinge": 0.0,
    "ipo": (2.0 - 1.0) ** 2,
    "kto_pair": (0.377541 + 0.377541) / 2,
    "simpo": 0.474077,  # -log sigmoid(1 - 0.5)
    "robust": (0.9 * 0.313262 - 0.1 * 1.313262) / 0.8,
    "apo_zero": 0.377541 + 0.377541,
    "apo_down": 0.622459 + 0.268941,
    "exo_pair": 0.731059 * (-0.313262 + 0.105361) + 0.268941 * (-1.313262 + 2.302585),
    "nca_pair": 0.474077 + 0.5 * 0.974077 + 0.5 * 0.474077,
    "bco_pair": 0.575940 + 0.386871,  # -log sigmoid(0.5 - 0.25) - log sigmoid(0.5 + 0.25)
    "sppo_hard": 0.0,  # both scores are at their targets, +-1 / (2 beta)
    "discopop": 0.313262 * 0.268941 + 0.367879 * 0.731059,
}


def _pairs(chosen: Tensor, rejected: Tensor, tokens: float = 1.0) -> PairScores:
    counts = torch.full_like(chosen, tokens)
    return PairScores(chosen, rejected, torch.zeros_like(chosen), torch.zeros_like(chosen), counts, counts)


@pytest.mark.parametrize(("name", "expected"), BY_HAND.items())
def test_a_pair_worked_by_hand(name: str, expected: float) -> None:
    pairs = _pairs(torch.tensor([1.0], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64))
    assert float(preference_loss(name, pairs, SETTINGS).loss_P) == pytest.approx(expected, abs=2e-6)


def test_orpo_by_hand() -> None:
    """Probabilities 0.8 and 0.5: odds 4 and 1, so the loss is -ln 0.8 - 0.5 x ln(4/5)."""
    pairs = _pairs(torch.tensor([0.8]).double().log(), torch.tensor([0.5]).double().log())
    expected = -math.log(0.8) - 0.5 * math.log(0.8)
    assert float(preference_loss("orpo", pairs, SETTINGS).loss_P) == pytest.approx(expected, abs=1e-7)


def test_sppo_by_hand() -> None:
    pairs = _pairs(torch.tensor([2.0]), torch.tensor([0.5]))
    assert float(preference_loss("sppo_hard", pairs, SETTINGS).loss_P) == pytest.approx(1.0 + 2.25)


def test_hinge_inside_its_margin() -> None:
    assert float(preference_loss("hinge", _pairs(torch.tensor([0.5]), torch.tensor([0.0])), SETTINGS).loss_P) == 0.75


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
@pytest.mark.parametrize("extras", [{}, {"ftx": 0.7, "bco_weight": 0.3}])
def test_gradients_are_those_of_the_value(name: str, extras: dict[str, float]) -> None:
    if not PREFERENCE_LOSSES[name].needs_reference:
        extras = {key: value for key, value in extras.items() if key != "bco_weight"}
    generator = torch.Generator().manual_seed(3)
    logps = [(-torch.rand(4, generator=generator).double() * 9 - 0.5).requires_grad_() for _ in range(2)]
    settings = replace(SETTINGS, **extras)
    assert torch.autograd.gradcheck(lambda c, r: preference_loss(name, _pairs(c, r, 3.0), settings).loss_P, logps)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_no_margin_makes_a_loss_or_gradient_infinite(name: str, tau: float) -> None:
    """From certain (0) to hopeless (-10,000 nats), in every combination, in fp32."""
    grid = torch.tensor([0.0, -1e-9, -1e-7, -1.0, -88.0, -1e3, -1e4])
    chosen, rejected = (side.flatten().clone().requires_grad_() for side in torch.meshgrid(grid, grid, indexing="ij"))
    settings = replace(SETTINGS, discopop_tau=tau)
    if name == "discopop" and tau == 1.0:  # grows as e^-margin without its sharp gate, by definition
        settings = replace(settings, beta=0.005)
    loss_P = preference_loss(name, _pairs(chosen, rejected), settings).loss_P
    assert torch.isfinite(loss_P).all()
    for gradient in torch.autograd.grad(loss_P.sum(), (chosen, rejected), allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_no_pairs_give_no_losses(name: str) -> None:
    empty = torch.zeros(0, requires_grad=True)
    loss_P = preference_loss(name, _pairs(empty, empty), replace(SETTINGS, ftx=1.0)).loss_P
    assert loss_P.shape == (0,)
    loss_P.sum().backward()


@pytest.mark.parametrize("name", [name for name, loss in PREFERENCE_LOSSES.items() if loss.needs_reference])
def test_equal_answers_have_no_margin_and_the_same_reward(name: str) -> None:
    same = torch.tensor([-3.0])
    out = preference_loss(name, _pairs(same, same), SETTINGS)
    assert torch.equal(out.chosen_reward_P, out.rejected_reward_P)
    assert float(reward_metrics(out.chosen_reward_P, out.rejected_reward_P)["rewards/accuracies"][0]) == 0.0


def test_the_table_says_what_a_loss_reads() -> None:
    """A loss without reference does not look at it, one that averages does look at the token counts, and so on."""
    generator = torch.Generator().manual_seed(0)
    numbers = [-torch.rand(4, generator=generator) * 5 - 0.5 for _ in range(4)]
    counts = torch.full((4,), 3.0)
    base = PairScores(*numbers, counts, counts)
    other_reference = replace(base, ref_chosen_logp_P=numbers[2] - 1.0)
    longer = replace(base, chosen_tokens_P=counts + 1)
    smoother = replace(SETTINGS, label_smoothing=0.2)
    for name, entry in PREFERENCE_LOSSES.items():
        loss_P = preference_loss(name, base, SETTINGS).loss_P
        changed = [
            not torch.equal(loss_P, preference_loss(name, *given).loss_P)
            for given in ((other_reference, SETTINGS), (longer, SETTINGS), (base, smoother))
        ]
        assert changed == [entry.needs_reference, entry.averages, entry.smoothing != "unused"], name


def test_a_loss_without_reference_takes_none() -> None:
    pairs = PairScores(torch.tensor([-2.0]), torch.tensor([-4.0]), None, None, torch.tensor([2]), torch.tensor([4]))
    chosen_P, rejected_P = pair_scores("simpo", pairs)
    assert (float(chosen_P), float(rejected_P)) == (-1.0, -1.0)
    with pytest.raises(AssertionError, match="sigmoid needs a reference"):
        preference_loss("sigmoid", pairs, SETTINGS)
    with pytest.raises(AssertionError, match="a BCO term needs a reference"):
        preference_loss("simpo", pairs, replace(SETTINGS, bco_weight=1.0))


def test_rewards_are_beta_times_the_score_and_carry_no_gradient() -> None:
    chosen = torch.tensor([-1.0, -2.0], requires_grad=True)
    pairs = replace(_pairs(chosen, torch.tensor([-3.0, -2.0])), ref_chosen_logp_P=torch.tensor([-2.0, -4.0]))
    out = preference_loss("sigmoid", pairs, SETTINGS)
    assert out.chosen_reward_P.tolist() == [0.5, 1.0]
    assert out.rejected_reward_P.tolist() == [-1.5, -1.0]
    assert not out.chosen_reward_P.requires_grad
    found = reward_metrics(out.chosen_reward_P, out.rejected_reward_P)
    metrics = {name: (float(total), float(weight)) for name, (total, weight) in found.items()}
    assert metrics == {
        "rewards/chosen": (1.5, 2.0),
        "rewards/rejected": (-2.5, 2.0),
        "rewards/accuracies": (2.0, 2.0),
        "rewards/margins": (4.0, 2.0),
    }


def test_ld_weights_count_the_longer_answers_rest_alpha_times() -> None:
    """Answers of 3 and 1 tokens, of 0 and 2, in one row; sequence 2 and 3 are the second pair."""
    sequence_N = torch.tensor([0, 0, 0, 1, 3, 3])
    weight_N = length_weights(sequence_N, torch.tensor([[0, 1], [2, 3]]), 0.25)
    assert weight_N.tolist() == [1.0, 0.25, 0.25, 1.0, 0.25, 0.25]
    assert length_weights(sequence_N, torch.tensor([[0, 1], [2, 3]]), 1.0).eq(1).all()
    assert length_weights(torch.zeros(0, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long), 0.5).shape == (0,)


def test_every_choice_of_pref_loss_has_its_loss() -> None:
    choices = read_fields([RlhfOptions])["pref_loss"].choices
    assert len(choices) >= 6
    assert set(choices) <= set(PREFERENCE_LOSSES)
