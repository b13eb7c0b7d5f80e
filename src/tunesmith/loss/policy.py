"""The pieces of PPO for language models: rewards per token, advantages, the two clipped losses, the KL controller.

All vectors are flat: one entry per generated token of all answers, with `sequence_N` telling which answer. Only the
advantages run along an answer; they go through a padded view (S x longest) and one step per column, which costs
longest / mean times the memory of one fp32 number per token and no loop over answers.

Nothing here divides by a count: whitening and score normalisation read `Moments` of the whole global batch.
References: Schulman et al. 2017, arXiv 1707.06347; Schulman et al. 2016 (GAE), arXiv 1506.02438; Ziegler et al. 2019,
arXiv 1909.08593; Schulman, "Approximating KL Divergence", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tunesmith.loss.logspace import held_log_ratio
from tunesmith.loss.moments import Moments
from tunesmith.loss.segments import last_of_sequence, position_in_sequence, to_padded
from tunesmith.loss.token import StepOut

# Kullback-Leibler divergence, from samples


def kl_k1(logp_N: Tensor, ref_logp_N: Tensor) -> Tensor:
    """log p - log q of the sampled token: unbiased for KL(p || q), either sign, high variance."""
    return logp_N - ref_logp_N


def kl_k2(logp_N: Tensor, ref_logp_N: Tensor) -> Tensor:
    """(log p - log q)^2 / 2: biased, low variance; its gradient is that of KL(p || q)."""
    return 0.5 * (logp_N - ref_logp_N) ** 2


def kl_k3(logp_N: Tensor, ref_logp_N: Tensor) -> Tensor:
    """q/p - 1 - log(q/p): unbiased for KL(p || q) and never negative. The log-ratio is held within +-30 nats."""
    log_ratio_N = held_log_ratio(ref_logp_N, logp_N)
    return torch.expm1(log_ratio_N) - log_ratio_N


# Rewards


def normalised_scores(score_S: Tensor, moments: Moments | None, clip: float | None = None) -> Tensor:
    """Scores to mean 0 and deviation 1 by running moments (None: as they are), then held within +-clip.

    The moments are those of all scores so far, the present batch included. Fewer than two scores, or all equal,
    have no deviation: they are only centred.
    """
    if moments is not None:
        score_S = (score_S - moments.mean) / (moments.std or 1.0)
    return score_S if clip is None else score_S.clamp(-clip, clip)


def shaped_rewards(
    score_S: Tensor, logp_N: Tensor, ref_logp_N: Tensor, sequence_N: Tensor, *, kl_coef: float
) -> Tensor:
    """reward_N = -kl_coef x (log p - log ref) at every token, plus the answer's score at its last token.

    An answer without tokens has nowhere to put its score; it is not trained on.
    """
    score_N = score_S[sequence_N] * last_of_sequence(sequence_N, score_S.numel())
    return (score_N - kl_coef * kl_k1(logp_N, ref_logp_N)).detach()


@torch.no_grad()
def generalised_advantages(
    reward_N: Tensor, value_N: Tensor, sequence_N: Tensor, num_sequences: int, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """GAE: A_t = sum over k of (gamma x lam)^k delta_(t+k), delta_t = r_t + gamma V_(t+1) - V_t; V = 0 after the end.

    Returns:
        (advantage_N, return_N = advantage + value), without gradient; the advantages are not whitened yet.
    """
    position_N = position_in_sequence(sequence_N, num_sequences)
    reward_SL = to_padded(reward_N, sequence_N, position_N, num_sequences)
    value_SL = to_padded(value_N, sequence_N, position_N, num_sequences)
    next_value_SL = torch.cat([value_SL[:, 1:], value_SL.new_zeros(num_sequences, 1)], dim=1)[:, : value_SL.shape[1]]
    delta_SL = reward_SL + gamma * next_value_SL - value_SL
    advantage_SL = torch.zeros_like(delta_SL)
    running_S = delta_SL.new_zeros(num_sequences)
    for column in range(delta_SL.shape[1] - 1, -1, -1):  # behind an answer's end every delta is 0
        running_S = delta_SL[:, column] + gamma * lam * running_S
        advantage_SL[:, column] = running_S
    advantage_N = advantage_SL[sequence_N, position_N]
    return advantage_N, advantage_N + value_N


# Losses


def clipped_policy_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> tuple[Tensor, Tensor]:
    """max(-A r, -A clamp(r, 1 - clip_low, 1 + clip_high)), r = p / p_old, per token.

    Returns:
        (loss_N, clipped_N bool: where the clamped side was the larger, so that no gradient flows).
    """
    ratio_N = held_log_ratio(logp_N, old_logp_N).exp()
    plain_N = -advantage_N * ratio_N
    clamped_N = -advantage_N * ratio_N.clamp(1 - clip_low, 1 + clip_high)
    return torch.maximum(plain_N, clamped_N), clamped_N > plain_N


def clipped_value_loss(
    value_N: Tensor, old_value_N: Tensor, return_N: Tensor, *, clip: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Half the larger of (V - R)^2 and (V held within old V +- clip - R)^2, per token.

    Returns:
        (loss_N, clipped_N bool: where the held side was the larger).
    """
    held_N = torch.clamp(value_N, old_value_N - clip, old_value_N + clip)
    plain_N, clamped_N = (value_N - return_N) ** 2, (held_N - return_N) ** 2
    return 0.5 * torch.maximum(plain_N, clamped_N), clamped_N > plain_N


@dataclass(frozen=True, slots=True)
class Rollout:
    """What was recorded for N generated tokens before the update: no gradient anywhere."""

    old_logp_N: Tensor
    old_value_N: Tensor
    advantage_N: Tensor
    return_N: Tensor


def ppo_loss(
    logp_N: Tensor,
    value_N: Tensor,
    rollout: Rollout,
    *,
    clip: float = 0.2,
    value_clip: float = 0.2,
    value_coef: float = 0.1,
) -> StepOut:
    """Policy loss + value_coef x value loss, summed over tokens; weight: their number. Schulman et al. 2017, eq. 9.

    The entropy bonus of that equation is left out, as in Ziegler et al. 2019: the KL reward holds the policy open.
    """
    policy_N, policy_clipped_N = clipped_policy_loss(
        logp_N, rollout.old_logp_N, rollout.advantage_N, clip_low=clip, clip_high=clip
    )
    error_N, value_clipped_N = clipped_value_loss(value_N, rollout.old_value_N, rollout.return_N, clip=value_clip)
    weight = torch.tensor(float(logp_N.numel()), device=logp_N.device)
    sums = {
        "policy_loss": policy_N.sum(),
        "value_loss": error_N.sum(),
        "policy_clipped": policy_clipped_N.float().sum(),
        "value_clipped": value_clipped_N.float().sum(),
        "old_policy_kl": kl_k2(logp_N, rollout.old_logp_N).sum(),
    }
    metrics = {name: (total.detach(), weight) for name, total in sums.items()}
    return StepOut(policy_N.sum() + value_coef * error_N.sum(), weight, metrics)


# The KL controller


@dataclass(frozen=True, slots=True)
class KlController:
    """The coefficient of the KL reward: fixed, or moved until the KL per answer meets `target` (Ziegler et al. 2019).

    `target` in nats per answer, None: fixed. `horizon`: answers in which a KL 20 % off moves the coefficient by 20 %.
    """

    coef: float = 0.2
    target: float | None = 6.0
    horizon: float = 10_000.0

    def after(self, kl: float, num_answers: int) -> KlController:
        """The controller after a batch of `num_answers` answers whose mean KL to the reference was `kl`."""
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        return replace(self, coef=self.coef * (1.0 + error * num_answers / self.horizon))
