"""Losses over pairs of answers, of which one is preferred: DPO and its relatives, one line of a table each.

Every loss is a function of two numbers per pair, the *scores* of the chosen and of the rejected answer. A score is
the answer's log-probability under the policy; minus that under the reference where the loss has one; divided by the
answer's tokens where the loss averages. The table says which, so that a stage knows what to compute. The reward that
is reported is beta x score.

All functions return one loss per pair, never a mean: only the loop divides, by the pairs of the whole global batch.
Numbers that belong to the whole batch (a running mean of rewards, a KL estimate) are passed in for the same reason.
Where TRL and the public tool differ, the public tool's meaning is kept and the docstring says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tunesmith.loss.logspace import log1mexp
from tunesmith.loss.segments import position_in_sequence, sequence_counts


@dataclass(frozen=True, slots=True)
class PairScores:
    """P pairs of answers.

    `chosen_logp_P`, `rejected_logp_P`: log-probability of each answer under the policy, nats, summed over its tokens;
    `ref_*`: the same under the frozen reference (None where the loss has none); `*_tokens_P`: supervised tokens of
    each answer, which only averaging losses and `ftx` read.
    """

    chosen_logp_P: Tensor
    rejected_logp_P: Tensor
    ref_chosen_logp_P: Tensor | None
    ref_rejected_logp_P: Tensor | None
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor


@dataclass(frozen=True, slots=True)
class PreferenceSettings:
    """What the user sets (`beta` to `bco_weight`) and what the stage measures over the whole batch.

    `reward_mean`: running mean of the rewards of chosen and rejected answers, BCO's delta (no gradient).
    `chosen_kl`, `rejected_kl`: mean score of the chosen and of the rejected answers of the global batch, clamped at 0
    (no gradient); read by `kto_pair` only.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    simpo_gamma: float = 0.5
    discopop_tau: float = 0.05
    ftx: float = 0.0
    bco_weight: float = 0.0
    reward_mean: float = 0.0
    chosen_kl: float = 0.0
    rejected_kl: float = 0.0


@dataclass(frozen=True, slots=True)
class PairLoss:
    """`loss_P` with a graph; the rewards (beta x score) without."""

    loss_P: Tensor
    chosen_reward_P: Tensor
    rejected_reward_P: Tensor


PairFunction = Callable[[Tensor, Tensor, PreferenceSettings], Tensor]


def sigmoid_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """DPO: -log sigmoid(beta x margin), with a share of pairs taken as swapped ("conservative DPO").

    Rafailov et al. 2023, arXiv 2305.18290; Mitchell 2023. TRL 1.16 has dropped the label smoothing here.
    """
    logits_P = settings.beta * (chosen_P - rejected_P)
    swapped = settings.label_smoothing
    return -(1 - swapped) * logsigmoid(logits_P) - swapped * logsigmoid(-logits_P)


def hinge_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """max(0, 1 - beta x margin). Zhao et al. 2023 (SLiC), arXiv 2305.10425; Liu et al. 2023, arXiv 2309.06657."""
    return torch.relu(1 - settings.beta * (chosen_P - rejected_P))


def ipo_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """(margin - 1 / (2 beta))^2 on scores averaged over tokens. Azar et al. 2023, arXiv 2310.12036, eq. 17.

    The rewards reported are of the averaged scores, as in the public tool; TRL reports those of the sums.
    """
    return (chosen_P - rejected_P - 1 / (2 * settings.beta)) ** 2


def kto_pair_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """KTO on pairs: each answer against the KL estimate of the other side, the mean of the two.

    Ethayarajh et al. 2024, arXiv 2402.01306 (first report). TRL had it until 0.8, over the concatenation of both
    sides, hence the half; there the estimates carried a gradient, which the paper excludes.
    """
    chosen_loss_P = torch.sigmoid(-settings.beta * (chosen_P - settings.rejected_kl))
    rejected_loss_P = torch.sigmoid(-settings.beta * (settings.chosen_kl - rejected_P))
    return (chosen_loss_P + rejected_loss_P) / 2


def log_odds_ratio(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """log of odds(chosen) / odds(rejected), odds(p) = p / (1 - p), of averaged log-probabilities (nats)."""
    return (chosen_P - rejected_P) - (log1mexp(chosen_P) - log1mexp(rejected_P))


def orpo_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """-chosen - beta x log sigmoid(log odds ratio), on averaged log-probabilities. Hong et al. 2024, arXiv 2403.07691.

    The first term is the public tool's: the answer's own mean token loss, pair by pair. TRL takes it over prompt and
    answer together, as one mean over all tokens of a micro-batch.
    """
    return -chosen_P - settings.beta * logsigmoid(log_odds_ratio(chosen_P, rejected_P))


def simpo_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """-log sigmoid(beta x margin - gamma), on averaged log-probabilities. Meng et al. 2024, arXiv 2405.14734."""
    return -logsigmoid(settings.beta * (chosen_P - rejected_P) - settings.simpo_gamma)


def robust_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """DPO made unbiased under a known share (< 0.5) of swapped pairs. Chowdhury et al. 2024, arXiv 2403.00409."""
    logits_P = settings.beta * (chosen_P - rejected_P)
    swapped = settings.label_smoothing
    unscaled_P = -(1 - swapped) * logsigmoid(logits_P) + swapped * logsigmoid(-logits_P)
    return unscaled_P / (1 - 2 * swapped)


def apo_zero_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """Raise the chosen, lower the rejected. D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7."""
    return torch.sigmoid(-settings.beta * chosen_P) + torch.sigmoid(settings.beta * rejected_P)


def apo_down_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """Lower the chosen, and the rejected more. D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 8."""
    return torch.sigmoid(settings.beta * chosen_P) + torch.sigmoid(-settings.beta * (chosen_P - rejected_P))


def exo_pair_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """Reverse KL from the policy's preference to (1 - eps, eps); eps > 0. Ji et al. 2024, arXiv 2402.00856, eq. 16."""
    logits_P = settings.beta * (chosen_P - rejected_P)
    log_kept, log_swapped = math.log1p(-settings.label_smoothing), math.log(settings.label_smoothing)
    chosen_part_P = torch.sigmoid(logits_P) * (logsigmoid(logits_P) - log_kept)
    return chosen_part_P + torch.sigmoid(-logits_P) * (logsigmoid(-logits_P) - log_swapped)


def nca_pair_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """Noise contrastive alignment of a pair. Chen et al. 2024, arXiv 2402.05369."""
    chosen_reward_P, rejected_reward_P = settings.beta * chosen_P, settings.beta * rejected_P
    pulled_back_P = logsigmoid(-chosen_reward_P) + logsigmoid(-rejected_reward_P)
    return -logsigmoid(chosen_reward_P) - 0.5 * pulled_back_P


def bco_pair_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """Tell chosen from rejected by a binary classifier whose logit is reward - delta.

    delta is `reward_mean`. Jung et al. 2024, arXiv 2404.04656. TRL 1.16's pair form has no delta (delta = 0).
    """
    chosen_logit_P = settings.beta * chosen_P - settings.reward_mean
    rejected_logit_P = settings.beta * rejected_P - settings.reward_mean
    return -logsigmoid(chosen_logit_P) - logsigmoid(-rejected_logit_P)


def sppo_hard_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """Self-play with certain wins: scores to +-1 / (2 beta). Wu et al. 2024, arXiv 2405.00675, eq. 4.7."""
    target = 0.5 / settings.beta
    return (chosen_P - target) ** 2 + (rejected_P + target) ** 2


def discopop_loss(chosen_P: Tensor, rejected_P: Tensor, settings: PreferenceSettings) -> Tensor:
    """The log-ratio modulated loss that a program search found. Lu et al. 2024, arXiv 2406.08414, eq. 5.

    The exponential part is formed in log space: on its own it overflows where its factor vanishes.
    """
    logits_P = settings.beta * (chosen_P - rejected_P)
    gate_P = logits_P / settings.discopop_tau
    exponential_P = torch.exp(logsigmoid(gate_P) - logits_P)
    return -logsigmoid(logits_P) * torch.sigmoid(-gate_P) + exponential_P


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """One choice of `pref_loss`.

    `needs_reference`: scores are log-ratios to the reference. `averages`: scores are divided by the answer's tokens.
    `smoothing`: what `label_smoothing` means to it. `divides_by_beta`: beta = 0 has no meaning.
    """

    function: PairFunction
    needs_reference: bool = True
    averages: bool = False
    smoothing: Literal["unused", "optional", "required"] = "unused"
    divides_by_beta: bool = False


PREFERENCE_LOSSES: dict[str, PreferenceLoss] = {
    "sigmoid": PreferenceLoss(sigmoid_loss, smoothing="optional"),
    "hinge": PreferenceLoss(hinge_loss),
    "ipo": PreferenceLoss(ipo_loss, averages=True, divides_by_beta=True),
    "kto_pair": PreferenceLoss(kto_pair_loss),
    "orpo": PreferenceLoss(orpo_loss, needs_reference=False, averages=True),
    "simpo": PreferenceLoss(simpo_loss, needs_reference=False, averages=True),
    "robust": PreferenceLoss(robust_loss, smoothing="optional"),
    "apo_zero": PreferenceLoss(apo_zero_loss),
    "apo_down": PreferenceLoss(apo_down_loss),
    "exo_pair": PreferenceLoss(exo_pair_loss, smoothing="required"),
    "nca_pair": PreferenceLoss(nca_pair_loss),
    "bco_pair": PreferenceLoss(bco_pair_loss),
    "sppo_hard": PreferenceLoss(sppo_hard_loss, divides_by_beta=True),
    "discopop": PreferenceLoss(discopop_loss),
}


def pair_scores(name: str, pairs: PairScores) -> tuple[Tensor, Tensor]:
    """The scores of chosen and rejected answers, each (P,), as the loss `name` reads them."""
    entry = PREFERENCE_LOSSES[name]
    chosen_P, rejected_P = pairs.chosen_logp_P, pairs.rejected_logp_P
    if entry.needs_reference:
        assert pairs.ref_chosen_logp_P is not None, f"{name} needs a reference"
        assert pairs.ref_rejected_logp_P is not None, f"{name} needs a reference"
        chosen_P, rejected_P = chosen_P - pairs.ref_chosen_logp_P, rejected_P - pairs.ref_rejected_logp_P
    if entry.averages:
        chosen_P = chosen_P / pairs.chosen_tokens_P.clamp(min=1)
        rejected_P = rejected_P / pairs.rejected_tokens_P.clamp(min=1)
    return chosen_P, rejected_P


def preference_loss(name: str, pairs: PairScores, settings: PreferenceSettings) -> PairLoss:
    """Loss and rewards of each pair under the loss `name` of `PREFERENCE_LOSSES`.

    `ftx` adds ftx x the chosen answer's mean token loss, pair by pair (TRL's "sft" takes one mean over all tokens of
    a micro-batch). `bco_weight` w mixes in the binary classifier: (loss + w x BCO) / (1 + w); it needs a reference.
    """
    entry = PREFERENCE_LOSSES[name]
    chosen_P, rejected_P = pair_scores(name, pairs)
    loss_P = entry.function(chosen_P, rejected_P, settings)
    if settings.bco_weight:
        assert entry.needs_reference, f"{name}: a BCO term needs a reference"
        bco_P = bco_pair_loss(chosen_P, rejected_P, settings)
        loss_P = (loss_P + settings.bco_weight * bco_P) / (1 + settings.bco_weight)
    if settings.ftx:
        loss_P = loss_P - settings.ftx * pairs.chosen_logp_P / pairs.chosen_tokens_P.clamp(min=1)
    return PairLoss(loss_P, settings.beta * chosen_P.detach(), settings.beta * rejected_P.detach())


def reward_metrics(chosen_reward_P: Tensor, rejected_reward_P: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and weights of the metrics that preference training reports; equal rewards are not counted as right."""
    num_pairs = torch.tensor(float(chosen_reward_P.numel()), device=chosen_reward_P.device)
    sums = {
        "rewards/chosen": chosen_reward_P.sum(),
        "rewards/rejected": rejected_reward_P.sum(),
        "rewards/accuracies": (chosen_reward_P > rejected_reward_P).float().sum(),
        "rewards/margins": (chosen_reward_P - rejected_reward_P).sum(),
    }
    return {name: (total.detach(), num_pairs) for name, total in sums.items()}


def length_weights(sequence_N: Tensor, pairs_P2: Tensor, alpha: float) -> Tensor:
    """LD-DPO: weight 1 for the tokens that both answers of a pair have, `alpha` for those only the longer one has.

    Args:
        sequence_N: which sequence (answer) a token belongs to, in order within each sequence.
        pairs_P2: the sequence numbers of each pair's two answers; every sequence in exactly one pair.
        alpha: 1 is plain DPO; 0 cuts the longer answer to the shorter one's length.

    Returns:
        weight_N (fp32), to multiply the policy's log-probabilities by; not the reference's, as in the public tool
        (TRL 1.16 weighs those too). Liu et al. 2024, arXiv 2409.06411.
    """
    num_sequences = pairs_P2.numel()
    counts_S = sequence_counts(sequence_N, num_sequences)
    shared_S = torch.zeros_like(counts_S)
    shared_S[pairs_P2] = counts_S[pairs_P2].min(dim=1, keepdim=True).values.expand(-1, 2)
    inside_N = position_in_sequence(sequence_N, num_sequences) < shared_S[sequence_N]
    return torch.where(inside_N, 1.0, alpha).to(torch.float32)
