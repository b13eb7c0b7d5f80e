"""Oracles of preference, feedback and reward losses: TRL, or the paper's formula where TRL has none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tests.oracles import trl_calls
from tests.oracles.table import Row, check, compare
from torch import Tensor

from tunesmith.loss.feedback import kl_estimate, kto_loss
from tunesmith.loss.preference import PairScores, PreferenceSettings, length_weights, preference_loss
from tunesmith.loss.reward import pairwise_loss

NUM_PAIRS, LONGEST = 5, 7
BETA = 0.3


def draw_pairs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Token log-probabilities of 2 x P answers (chosen first), their mask (1 to 7 tokens), reference log-probabilities.

    The second pair's answers are equal; the third is far on the wrong side, the fourth far on the right one.
    """
    rows = 2 * NUM_PAIRS
    logp_SL = -torch.rand(rows, LONGEST, generator=generator, dtype=torch.float64) * 3 - 0.01
    lengths_S = torch.randint(1, LONGEST + 1, (rows,), generator=generator)
    logp_SL[1], lengths_S[1] = logp_SL[1 + NUM_PAIRS], lengths_S[1 + NUM_PAIRS]
    mask_SL = (torch.arange(LONGEST)[None] < lengths_S[:, None]).long()
    ref_S = (logp_SL * mask_SL).sum(1) + torch.randn(rows, generator=generator, dtype=torch.float64) * 2
    ref_S[1] = ref_S[1 + NUM_PAIRS]
    ref_S[2], ref_S[2 + NUM_PAIRS] = ref_S[2] + 40, ref_S[2 + NUM_PAIRS] - 40
    ref_S[3], ref_S[3 + NUM_PAIRS] = ref_S[3] - 40, ref_S[3 + NUM_PAIRS] + 40
    return logp_SL, mask_SL, ref_S


def as_pairs(logp_SL: Tensor, mask_SL: Tensor, ref_S: Tensor) -> PairScores:
    """The same numbers as the losses take them."""
    (chosen, rejected), counts = (logp_SL * mask_SL).sum(1).chunk(2), mask_SL.sum(1)
    ref_chosen, ref_rejected = ref_S.chunk(2)
    return PairScores(chosen, rejected, ref_chosen, ref_rejected, *counts.chunk(2))


def ours(name: str, settings: PreferenceSettings) -> Callable[..., Tensor]:
    """Loss per pair, as a function of what `draw_pairs` gives."""
    return lambda *inputs: preference_loss(name, as_pairs(*inputs), settings).loss_P


def _mean(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *inputs: function(*inputs).mean()


def _log_ratios(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    pairs = as_pairs(*inputs)
    return pairs.chosen_logp_P - pairs.ref_chosen_logp_P, pairs.rejected_logp_P - pairs.ref_rejected_logp_P


def _averages(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    pairs = as_pairs(*inputs)
    return pairs.chosen_logp_P / pairs.chosen_tokens_P, pairs.rejected_logp_P / pairs.rejected_tokens_P


def _logsigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + e^-x)) by its definition, -log(e^0 + e^-x)."""
    return -torch.logaddexp(torch.zeros_like(x), -x)


def draw_close_pairs(generator: torch.Generator) -> tuple[Tensor, ...]:
    """The same with margins of a nat or two: where TRL's own formula stays finite."""
    logp_SL, mask_SL, ref_S = draw_pairs(generator)
    return logp_SL, mask_SL, (logp_SL * mask_SL).sum(1) + torch.randn(ref_S.shape, generator=generator).double()


# Against DPOTrainer: (row's name, our loss, TRL's, what both are given)
TRL_PAIR_LOSSES: list[tuple[str, str, str, dict[str, float]]] = [
    ("sigmoid", "sigmoid", "sigmoid", {}),
    ("hinge", "hinge", "hinge", {}),
    ("ipo", "ipo", "ipo", {}),
    ("robust", "robust", "robust", {"label_smoothing": 0.1}),
    ("apo_zero", "apo_zero", "apo_zero", {}),
    ("apo_down", "apo_down", "apo_down", {}),
    ("exo_pair", "exo_pair", "exo_pair", {"label_smoothing": 1e-3}),
    ("nca_pair", "nca_pair", "nca_pair", {}),
    ("bco_pair, delta 0", "bco_pair", "bco_pair", {}),
    ("sppo_hard", "sppo_hard", "sppo_hard", {}),
    ("discopop", "discopop", "discopop", {"discopop_tau": 0.05}),
]


def trl_pair_row(row: str, name: str, trl_name: str, given: dict[str, float]) -> Row:
    """One choice of `pref_loss` against `DPOTrainer._compute_loss`, mean over the pairs."""
    settings = PreferenceSettings(beta=BETA, **given)
    theirs = partial(trl_calls.dpo, trl_name, beta=BETA, **given)
    draw = draw_close_pairs if name == "discopop" else draw_pairs
    return compare(f"dpo {row}", "TRL DPOTrainer", _mean(ours(name, settings)), theirs, draw)


def label_smoothing_row() -> Row:
    """The label smoothing that DPOTrainer has lost; CPOTrainer still has the formula."""
    settings = PreferenceSettings(beta=BETA, label_smoothing=0.2)

    def theirs(*inputs: Tensor) -> Tensor:
        return trl_calls.smoothed_sigmoid(*_log_ratios(*inputs), beta=BETA, label_smoothing=0.2)

    return compare("dpo sigmoid, label smoothing", "TRL CPOTrainer", ours("sigmoid", settings), theirs, draw_pairs)


def simpo_row() -> Row:
    """SimPO."""

    def theirs(*inputs: Tensor) -> Tensor:
        return trl_calls.simpo(*_averages(*inputs), beta=2.0, gamma=0.5)

    return compare("dpo simpo", "TRL CPOTrainer", ours("simpo", PreferenceSettings(beta=2.0)), theirs, draw_pairs)


def orpo_trl_row() -> Row:
    """ORPO's odds-ratio term, plus the mean token loss of the chosen answer; TRL computes the term in fp32."""

    def theirs(*inputs: Tensor) -> Tensor:
        chosen_P, rejected_P = _averages(*inputs)
        return -chosen_P - BETA * trl_calls.log_odds_term(chosen_P, rejected_P)

    settings = PreferenceSettings(beta=BETA)
    return compare("dpo orpo", "TRL ORPOTrainer (its term is fp32)", ours("orpo", settings), theirs, draw_pairs)


def orpo_formula_row() -> Row:
    """ORPO from probabilities, as in the paper."""

    def theirs(*inputs: Tensor) -> Tensor:
        chosen_P, rejected_P = (average.exp() for average in _averages(*inputs))
        odds_ratio_P = (chosen_P / (1 - chosen_P)) / (rejected_P / (1 - rejected_P))
        return -chosen_P.log() - BETA * (odds_ratio_P / (1 + odds_ratio_P)).log()

    settings = PreferenceSettings(beta=BETA)
    return compare("dpo orpo", "paper, float64", ours("orpo", settings), theirs, draw_pairs)


def kto_pair_row() -> Row:
    """KTO on pairs, each side against the other side's KL."""
    settings = PreferenceSettings(beta=BETA, chosen_kl=0.4, rejected_kl=1.1)

    def theirs(*inputs: Tensor) -> Tensor:
        chosen_P, rejected_P = _log_ratios(*inputs)
        chosen_P = 1 - _logsigmoid(BETA * (chosen_P - 1.1)).exp()
        rejected_P = 1 - _logsigmoid(BETA * (0.4 - rejected_P)).exp()
        return torch.stack([chosen_P, rejected_P]).mean(0)

    return compare("dpo kto_pair", "paper, float64", ours("kto_pair", settings), theirs, draw_pairs)


def bco_delta_row() -> Row:
    """BCO with a shifted boundary, as binary cross-entropy with labels."""
    settings = PreferenceSettings(beta=BETA, reward_mean=0.7)

    def theirs(*inputs: Tensor) -> Tensor:
        logits_2P = torch.stack(_log_ratios(*inputs)) * BETA - 0.7
        labels_2P = torch.tensor([[1.0], [0.0]], dtype=logits_2P.dtype).expand_as(logits_2P)
        entropy = torch.nn.functional.binary_cross_entropy_with_logits
        return entropy(logits_2P, labels_2P, reduction="none").sum(0)

    return compare("dpo bco_pair, delta 0.7", "paper, float64", ours("bco_pair", settings), theirs, draw_pairs)


def mixed_terms_row() -> Row:
    """pref_ftx and pref_bco_weight on top of sigmoid, as the public tool adds them."""
    settings = PreferenceSettings(beta=BETA, ftx=0.5, bco_weight=0.25, reward_mean=0.7)

    def theirs(*inputs: Tensor) -> Tensor:
        chosen_P, rejected_P = (BETA * ratio_P for ratio_P in _log_ratios(*inputs))
        classifier_P = -_logsigmoid(chosen_P - 0.7) - _logsigmoid(-(rejected_P - 0.7))
        preference_P = (-_logsigmoid(chosen_P - rejected_P) + 0.25 * classifier_P) / 1.25
        return preference_P + 0.5 * -_averages(*inputs)[0]

    return compare(
        "dpo sigmoid with pref_ftx and pref_bco_weight",
        "formula, float64",
        ours("sigmoid", settings),
        theirs,
        draw_pairs,
    )


def length_row() -> Row:
    """LD-DPO: the policy's tokens beyond the shorter answer count alpha."""
    settings = PreferenceSettings(beta=BETA)

    def mine(logp_SL: Tensor, mask_SL: Tensor, ref_S: Tensor) -> Tensor:
        sequence_N, column_N = mask_SL.nonzero(as_tuple=True)
        pairs_P2 = torch.arange(2 * NUM_PAIRS).reshape(2, NUM_PAIRS).T
        weight_SL = torch.zeros_like(logp_SL)
        weight_SL[sequence_N, column_N] = length_weights(sequence_N, pairs_P2, 0.4).to(logp_SL.dtype)
        return ours("sigmoid", settings)(logp_SL * weight_SL, mask_SL, ref_S).mean()

    theirs = partial(trl_calls.dpo, "sigmoid", beta=BETA, ld_alpha=0.4)
    return compare("dpo sigmoid with ld_alpha", "TRL DPOTrainer", mine, theirs, draw_pairs)


def kto_row(loss_type: str) -> Row:
    """KTO and its variant without KL, class weights 1.5 and 0.7; the estimate positive or clamped by seed."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        logp_SL, mask_SL, ref_S = draw_pairs(generator)
        label_S = torch.rand(2 * NUM_PAIRS, generator=generator) < 0.5
        return logp_SL, mask_SL, ref_S, label_S, torch.randn(6, generator=generator, dtype=torch.float64) * 3

    def mine(logp_SL: Tensor, mask_SL: Tensor, ref_S: Tensor, label_S: Tensor, kl_S: Tensor) -> Tensor:
        kl = kl_estimate(float(kl_S.detach().sum()), kl_S.numel()) if loss_type == "kto" else 0.0
        logp_S = (logp_SL * mask_SL).sum(1)
        weights = {"chosen_weight": 1.5, "rejected_weight": 0.7}
        return kto_loss(logp_S, ref_S, label_S, kl=kl, beta=BETA, **weights).loss_S.mean()

    theirs = partial(trl_calls.kto, beta=BETA, chosen_weight=1.5, rejected_weight=0.7, loss_type=loss_type)
    return compare(f"kto, loss_type {loss_type}", "TRL KTOTrainer", mine, theirs, draw)


def reward_row(with_margin: bool, center: float) -> Row:
    """The reward model's pairwise loss."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        scores = torch.randn(3, NUM_PAIRS, generator=generator, dtype=torch.float64) * 4
        scores[0, 0] = scores[1, 0]
        scores[0, 1], scores[1, 1] = 200.0, -200.0
        scores[0, 2], scores[1, 2] = -200.0, 200.0
        return scores[0], scores[1], scores[2]

    def mine(chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor) -> Tensor:
        margin = margin_P if with_margin else None
        return pairwise_loss(chosen_P, rejected_P, margin_P=margin, center=center).mean()

    def theirs(chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor) -> Tensor:
        return trl_calls.reward(chosen_P, rejected_P, margin_P if with_margin else None, center or None)

    extras = [word for word, used in (("margin", with_margin), ("center", center)) if used]
    return compare(", ".join(["rm", *extras]), "TRL RewardTrainer", mine, theirs, draw)


for _case in TRL_PAIR_LOSSES:
    check(f"dpo/{_case[0]}", partial(trl_pair_row, *_case))
check("dpo/label_smoothing", label_smoothing_row)
check("dpo/simpo", simpo_row)
check("dpo/orpo/trl", orpo_trl_row)
check("dpo/orpo/formula", orpo_formula_row)
check("dpo/kto_pair", kto_pair_row)
check("dpo/bco_pair/delta", bco_delta_row)
check("dpo/ftx_and_bco_weight", mixed_terms_row)
check("dpo/ld_alpha", length_row)
for _loss_type in ("kto", "apo_zero_unpaired"):
    check(f"kto/{_loss_type}", partial(kto_row, _loss_type))
for _margin, _center in ((False, 0.0), (True, 0.0), (True, 0.05)):
    check(f"rm/margin={_margin}/center={_center}", partial(reward_row, _margin, _center))
