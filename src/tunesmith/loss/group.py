"""GRPO and its forms: several answers to one prompt, each judged against the others.

An answer's advantage is its reward minus the mean of its group; the ratio to the policy that sampled it is clipped as
in PPO; a KL term may hold the policy to a reference. The forms differ in where the ratio is taken (token or answer)
and in what the sum is divided by. The sum and its divisor are returned apart, so that the division happens once, over
the whole global batch.

| form | ratio | divided by | paper |
|---|---|---|---|
| grpo | token | an answer's own tokens, then the number of answers | Shao et al. 2024, arXiv 2402.03300 |
| dapo | token | all tokens of the global batch | Yu et al. 2025, arXiv 2503.14476 |
| dr_grpo | token | answers x the longest length allowed | Liu et al. 2025, arXiv 2503.20783 |
| gspo | answer (geometric mean of its tokens' ratios) | as grpo | Zheng et al. 2025, arXiv 2507.18071 |

TRL's `bnpo` divides by the tokens of a micro-batch; divided once over the global batch it is `dapo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tunesmith.loss.logspace import held_log_ratio
from tunesmith.loss.moments import Moments
from tunesmith.loss.policy import kl_k3
from tunesmith.loss.segments import sequence_counts, sequence_mean, sequence_sum
from tunesmith.loss.token import StepOut

ScaleRewards = Literal["group", "batch", "none"]

ADVANTAGE_EPSILON = 1e-4
"""Added to the deviation of rewards (TRL's figure): equal rewards give advantage 0, not 0/0."""


@dataclass(frozen=True, slots=True)
class GroupForm:
    """One loss form; `clip` (low, high) and `scale_rewards` are its paper's."""

    ratio: Literal["token", "answer"]
    divisor: Literal["own_tokens", "all_tokens", "longest"]
    clip: tuple[float, float]
    scale_rewards: ScaleRewards


GROUP_FORMS: dict[str, GroupForm] = {
    "grpo": GroupForm("token", "own_tokens", (0.2, 0.2), "group"),
    "dapo": GroupForm("token", "all_tokens", (0.2, 0.28), "group"),
    "dr_grpo": GroupForm("token", "longest", (0.2, 0.2), "none"),
    "gspo": GroupForm("answer", "own_tokens", (3e-4, 4e-4), "group"),
}


@torch.no_grad()
def group_advantages(
    reward_S: Tensor, group_S: Tensor, num_groups: int, *, scale: ScaleRewards = "group", batch: Moments | None = None
) -> Tensor:
    """Reward minus the group's mean, over a standard deviation (with Bessel's correction) plus 1e-4, (S,).

    Args:
        reward_S: finite rewards; `group_S`: which prompt an answer belongs to; groups may differ in size.
        scale: divide by the deviation of the own group, of the whole global batch, or not at all.
        batch: moments of all rewards of the global batch; needed for "batch" only.
    """
    centred_S = reward_S - sequence_mean(reward_S, group_S, num_groups)[group_S]
    if scale == "none":
        return centred_S
    if scale == "batch":
        assert batch is not None, "scale='batch' needs the moments of the whole batch"
        return centred_S / (batch.std + ADVANTAGE_EPSILON)
    freedom_G = (sequence_counts(group_S, num_groups) - 1).clamp(min=1)
    std_G = (sequence_sum(centred_S.square(), group_S, num_groups) / freedom_G).sqrt()
    return centred_S / (std_G[group_S] + ADVANTAGE_EPSILON)


@dataclass(frozen=True, slots=True)
class GroupTokens:
    """N generated tokens of S answers.

    `logp_N` under the policy, with a graph; `old_logp_N` under the policy that sampled them (None: the policy itself,
    for one update per rollout: the ratio is 1 and only its gradient counts); `ref_logp_N` under the reference (read
    when beta > 0); `advantage_S` per answer; `sequence_N` which answer a token belongs to.
    """

    logp_N: Tensor
    old_logp_N: Tensor | None
    ref_logp_N: Tensor | None
    advantage_S: Tensor
    sequence_N: Tensor


def group_loss(
    tokens: GroupTokens, form: str, *, clip: tuple[float, float], beta: float = 0.0, max_tokens: int = 0
) -> StepOut:
    """-min(r A, clamp(r) A) + beta x k3 KL, summed as the form of `GROUP_FORMS` says, with its divisor as weight.

    Args:
        clip: (low, high): r is clamped to [1 - low, 1 + high].
        beta: weight of the KL term against the reference.
        max_tokens: the longest answer allowed; read by "dr_grpo" only.

    Returns:
        StepOut; metrics: the share of tokens clipped from below and from above, and the mean KL when beta > 0.
    """
    entry = GROUP_FORMS[form]
    sequence_N, num_answers = tokens.sequence_N, tokens.advantage_S.numel()
    ratio_N = _ratio(tokens, entry, num_answers)
    advantage_N = tokens.advantage_S[sequence_N]
    low, high = clip
    loss_N = -torch.minimum(ratio_N * advantage_N, ratio_N.clamp(1 - low, 1 + high) * advantage_N)
    num_tokens = torch.tensor(float(sequence_N.numel()), device=sequence_N.device)
    metrics = {
        "clip_ratio/low": (((ratio_N < 1 - low) & (advantage_N < 0)).float().sum(), num_tokens),
        "clip_ratio/high": (((ratio_N > 1 + high) & (advantage_N > 0)).float().sum(), num_tokens),
    }
    if beta:
        assert tokens.ref_logp_N is not None, "beta > 0 needs the reference's log-probabilities"
        kl_N = kl_k3(tokens.logp_N, tokens.ref_logp_N)
        loss_N = loss_N + beta * kl_N
        metrics["kl"] = (kl_N.detach().sum(), num_tokens)
    loss_sum, weight = _reduce(loss_N, sequence_N, num_answers, form, max_tokens)
    return StepOut(loss_sum, weight, metrics)


def _ratio(tokens: GroupTokens, entry: GroupForm, num_answers: int) -> Tensor:
    """p / p_old of each token, or of its answer: exp of the mean log-ratio over the answer's tokens."""
    old_logp_N = tokens.logp_N.detach() if tokens.old_logp_N is None else tokens.old_logp_N
    log_ratio_N = held_log_ratio(tokens.logp_N, old_logp_N)
    if entry.ratio == "answer":
        log_ratio_N = sequence_mean(log_ratio_N, tokens.sequence_N, num_answers)[tokens.sequence_N]
    return log_ratio_N.exp()


def _reduce(loss_N: Tensor, sequence_N: Tensor, num_answers: int, form: str, max_tokens: int) -> tuple[Tensor, Tensor]:
    """(sum, weight): the sum over the weight, both taken over the global batch, is the loss of the form."""
    by_answer = GROUP_FORMS[form].divisor == "own_tokens"
    total = sequence_mean(loss_N, sequence_N, num_answers).sum() if by_answer else loss_N.sum()
    weight = group_weight(form, num_answers, loss_N.numel(), max_tokens)
    return total, torch.tensor(weight, device=loss_N.device)


def group_weight(form: str, num_answers: int, num_tokens: int, max_tokens: int) -> float:
    """What the loss sum over these answers and their trained tokens is divided by.

    It is known before the loss is, and adds up over micro-batches and ranks.
    """
    divisor = GROUP_FORMS[form].divisor
    if divisor == "own_tokens":
        return float(num_answers)
    if divisor == "all_tokens":
        return float(num_tokens)
    assert max_tokens > 0, "dr_grpo divides by the longest answer allowed"
    return float(num_answers * max_tokens)
