"""Learning from a teacher's distribution: the generalised Jensen-Shannon divergence of GKD, token by token.

With mixture M = (1 - beta) x student + beta x teacher the divergence is
beta x KL(teacher || M) + (1 - beta) x KL(student || M). Its ends are taken as the two plain divergences (the formula
itself goes to 0 there): beta = 0 forward, KL(teacher || student); beta = 1 reverse, KL(student || teacher).

A teacher's whole distribution is too large to keep; its top k log-probabilities are not. Then both distributions are
compared over k + 1 outcomes: the k tokens, and "any other token" with the rest of the mass. Nothing is renormalised,
so the student is still told how much mass belongs elsewhere; what is lost is how the rest is spread, and the result is
never above the full divergence (merging outcomes cannot raise it).
Reference: Agarwal et al. 2024, "On-Policy Distillation of Language Models", arXiv 2306.13649.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tunesmith.loss.logspace import log1mexp

ChunkFunction = Callable[[Tensor, Tensor, slice], dict[str, Tensor]]
"""(logits_CV fp32, targets_C, which of the N tokens) -> per-token results, as the scorer calls it."""


def kl_divergence(logp_CV: Tensor, logq_CV: Tensor) -> Tensor:
    """KL(p || q), (C,), nats, of two distributions given by their log-probabilities."""
    return (logp_CV.exp() * (logp_CV - logq_CV)).sum(-1)


def jensen_shannon(student_logp_CV: Tensor, teacher_logp_CV: Tensor, beta: float) -> Tensor:
    """The generalised divergence of two normalised distributions, (C,), nats; beta in [0, 1]."""
    if beta == 0:
        return kl_divergence(teacher_logp_CV, student_logp_CV)
    if beta == 1:
        return kl_divergence(student_logp_CV, teacher_logp_CV)
    mixture_CV = torch.logaddexp(student_logp_CV + math.log1p(-beta), teacher_logp_CV + math.log(beta))
    from_teacher_C = kl_divergence(teacher_logp_CV, mixture_CV)
    return beta * from_teacher_C + (1 - beta) * kl_divergence(student_logp_CV, mixture_CV)


def distillation_loss(
    student_logits_CV: Tensor, teacher_logits_CV: Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Divergence between the softmaxes of both logits over the temperature, (C,). Equal to TRL's GKDTrainer (1.16)."""
    student_logp_CV = (student_logits_CV / temperature).log_softmax(-1)
    teacher_logp_CV = (teacher_logits_CV / temperature).log_softmax(-1)
    return jensen_shannon(student_logp_CV, teacher_logp_CV, beta)


def with_rest(logp_CK: Tensor) -> Tensor:
    """k log-probabilities and that of all other tokens together, (C, K + 1)."""
    rest_C1 = log1mexp(logp_CK.logsumexp(-1, keepdim=True))
    return torch.cat([logp_CK, rest_C1], dim=-1)


def topk_distillation_loss(
    student_logits_CV: Tensor,
    teacher_logp_CK: Tensor,
    teacher_ids_CK: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """Divergence over the teacher's top k tokens and one outcome for the rest, (C,).

    Args:
        student_logits_CV: the student's logits over the whole vocabulary.
        teacher_logp_CK: log-probabilities out of the whole vocabulary (not renormalised), taken at `temperature`.
        teacher_ids_CK: int64, their token ids, distinct in each row.
    """
    student_logp_CV = (student_logits_CV / temperature).log_softmax(-1)
    student_logp_CK = student_logp_CV.gather(-1, teacher_ids_CK)
    return jensen_shannon(with_rest(student_logp_CK), with_rest(teacher_logp_CK), beta)


def teacher_topk(logits_CV: Tensor, k: int, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """What is cached of a teacher: (logp_CK, ids_CK int64), the k likeliest tokens; k at most the vocabulary."""
    top = (logits_CV / temperature).log_softmax(-1).topk(min(k, logits_CV.shape[-1]), dim=-1)
    return top.values, top.indices


def distillation_function(
    teacher_logits: Callable[[slice], Tensor], *, beta: float = 0.5, temperature: float = 1.0
) -> ChunkFunction:
    """A function for the scorer that yields "divergence"; `teacher_logits(part)` gives the teacher's logits_CV."""

    def function(logits_CV: Tensor, targets_C: Tensor, part: slice) -> dict[str, Tensor]:
        teacher_CV = teacher_logits(part)
        return {"divergence": distillation_loss(logits_CV, teacher_CV, beta=beta, temperature=temperature)}

    return function


def topk_distillation_function(
    teacher_logp_NK: Tensor, teacher_ids_NK: Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> ChunkFunction:
    """A function for the scorer that yields "divergence" from cached log-probabilities of the row's N tokens."""

    def function(logits_CV: Tensor, targets_C: Tensor, part: slice) -> dict[str, Tensor]:
        logp_CK, ids_CK = teacher_logp_NK[part], teacher_ids_NK[part]
        return {"divergence": topk_distillation_loss(logits_CV, logp_CK, ids_CK, beta=beta, temperature=temperature)}

    return function
