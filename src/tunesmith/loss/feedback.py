"""KTO: learning from answers that are each labelled good or bad, without pairs.

An answer's score (log-ratio of policy to reference) is compared with how far the policy has moved on the whole: an
estimate of KL(policy || reference), taken on answers that belong to other prompts, over the whole global batch and
without a gradient. The estimate is passed in, so that it is the same however the batch is cut. One loss per answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class FeedbackLoss:
    """`loss_S` of each answer, class weights applied, with a graph; `reward_S` = beta x score, without."""

    loss_S: Tensor
    reward_S: Tensor


def kl_estimate(log_ratio_sum: float, count: float) -> float:
    """max(0, mean log-ratio) of the mismatched answers, from sums over the global batch; 0.0 for none."""
    return max(0.0, log_ratio_sum / count) if count else 0.0


def kto_loss(
    logp_S: Tensor,
    ref_logp_S: Tensor,
    desirable_S: Tensor,
    *,
    kl: float,
    beta: float = 0.1,
    chosen_weight: float = 1.0,
    rejected_weight: float = 1.0,
) -> FeedbackLoss:
    """1 - sigmoid(beta x (score - kl)) for a good answer, 1 - sigmoid(beta x (kl - score)) for a bad one.

    Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7. Equal to TRL's `kto` (1.16) and to the public tool's.

    Args:
        logp_S, ref_logp_S: log-probability of each answer, nats, summed over its tokens.
        desirable_S: bool, the label.
        kl: `kl_estimate` of the global batch; 0.0 gives APO-zero for unpaired answers (arXiv 2408.06266).
    """
    score_S = logp_S - ref_logp_S
    logit_S = beta * (score_S - kl)
    good_loss_S, bad_loss_S = chosen_weight * torch.sigmoid(-logit_S), rejected_weight * torch.sigmoid(logit_S)
    return FeedbackLoss(torch.where(desirable_S, good_loss_S, bad_loss_S), beta * score_S.detach())


def chosen_token_loss(logp_S: Tensor, tokens_S: Tensor, desirable_S: Tensor) -> Tensor:
    """Mean token loss of the good answers, 0 for the bad ones, (S,): `pref_ftx` times it is added to the KTO loss.

    The public tool divides the mean over good answers by their share of the batch, so that the rarer they are, the
    more they count; here an answer counts the same in every batch.
    """
    return torch.where(desirable_S, -logp_S / tokens_S.clamp(min=1), torch.zeros_like(logp_S))


def feedback_metrics(reward_S: Tensor, desirable_S: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and weights of the mean reward of good and of bad answers, each over its own count."""
    good_S = desirable_S.to(reward_S.dtype)
    return {
        "rewards/chosen": ((reward_S * good_S).sum(), good_S.sum()),
        "rewards/rejected": ((reward_S * (1 - good_S)).sum(), (1 - good_S).sum()),
    }
