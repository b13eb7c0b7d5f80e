"""Oracles of the losses over tokens: distillation, DFT, EAFT, ASFT, label smoothing."""

from __future__ import annotations

from functools import partial

import torch
from tests.oracles import trl_calls
from tests.oracles.table import Row, check, compare
from torch import Tensor
from torch.nn import functional

from tunesmith.loss.distill import distillation_loss, teacher_topk, topk_distillation_loss
from tunesmith.loss.reweight import (
    asft_loss,
    dft_loss,
    eaft_loss,
    mean_logp,
    reference_kl_function,
    smoothed_loss,
    topk_entropy,
)

NUM_TOKENS, VOCABULARY = 9, 31
EVERY = slice(0, NUM_TOKENS)


def draw_logits(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Logits of two models and targets. The first token's distributions are equal, the second's are nearly certain."""
    logits = torch.randn(2, NUM_TOKENS, VOCABULARY, generator=generator, dtype=torch.float64) * 2
    logits[1, 0] = logits[0, 0]
    logits[0, 1, 3] += 40
    logits[1, 1, 5] += 40
    return logits[0], logits[1], torch.randint(0, VOCABULARY, (NUM_TOKENS,), generator=generator)


def _target_logp(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    return logits_CV.log_softmax(-1).gather(-1, targets_C[:, None])[:, 0]


def gkd_row(beta: float, temperature: float) -> Row:
    """The divergence over the whole vocabulary."""

    def mine(student_CV: Tensor, teacher_CV: Tensor, _: Tensor) -> Tensor:
        return distillation_loss(student_CV, teacher_CV, beta=beta, temperature=temperature)

    def theirs(student_CV: Tensor, teacher_CV: Tensor, _: Tensor) -> Tensor:
        return trl_calls.gkd(student_CV, teacher_CV, beta=beta, temperature=temperature)

    return compare(f"gkd, beta {beta}, temperature {temperature}", "TRL GKDTrainer", mine, theirs, draw_logits)


def topk_row(beta: float) -> Row:
    """The divergence over the teacher's 5 likeliest tokens and the rest."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        student_CV, teacher_CV, _ = draw_logits(generator)
        student_CV[1], teacher_CV[1] = student_CV[2], teacher_CV[2]  # TRL holds the rest above 1e-7, we above rounding
        return student_CV, teacher_CV

    def mine(student_CV: Tensor, teacher_CV: Tensor) -> Tensor:
        logp_CK, ids_CK = teacher_topk(teacher_CV, 5)
        return topk_distillation_loss(student_CV, logp_CK, ids_CK, beta=beta)

    def theirs(student_CV: Tensor, teacher_CV: Tensor) -> Tensor:
        ids_CK = teacher_CV.argsort(-1, descending=True)[:, :5]
        logp = [logits.log_softmax(-1).gather(-1, ids_CK) for logits in (student_CV, teacher_CV)]
        return trl_calls.topk_divergence(*logp, beta=beta)

    return compare(f"gkd, top 5 and the rest, beta {beta}", "TRL SDPO loss_utils", mine, theirs, draw)


def dft_row() -> Row:
    """DFT, mean over tokens."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        logp_SL = -torch.rand(4, 6, generator=generator, dtype=torch.float64) * 5
        return logp_SL, (torch.rand(4, 6, generator=generator) < 0.7).long()

    def mine(logp_SL: Tensor, mask_SL: Tensor) -> Tensor:
        return dft_loss(logp_SL[mask_SL.bool()]).mean()

    return compare("sft, DFT", "TRL SFTTrainer", mine, trl_calls.dft, draw)


def eaft_row(alpha: float) -> Row:
    """EAFT: entropy of the renormalised 20 likeliest tokens over 3, to the power alpha, times cross-entropy."""

    def mine(logits_CV: Tensor, _: Tensor, targets_C: Tensor) -> Tensor:
        entropy_C = topk_entropy(logits_CV, targets_C, EVERY)["entropy"]
        return eaft_loss(_target_logp(logits_CV, targets_C), entropy_C, alpha=alpha)

    def theirs(logits_CV: Tensor, _: Tensor, targets_C: Tensor) -> Tensor:
        top_CK = logits_CV.detach().softmax(-1).sort(-1, descending=True).values[:, :20]
        top_CK = top_CK / top_CK.sum(-1, keepdim=True)
        weight_C = (torch.special.entr(top_CK).sum(-1) / 3.0) ** alpha
        return weight_C * functional.cross_entropy(logits_CV, targets_C, reduction="none")

    return compare(f"sft, EAFT, alpha {alpha}", "formula, float64", mine, theirs, draw_logits)


def asft_row() -> Row:
    """ASFT: mean of DFT plus alpha x KL per token, the reference without gradient."""

    def mine(logits_CV: Tensor, reference_CV: Tensor, targets_C: Tensor) -> Tensor:
        kl_C = reference_kl_function(lambda part: reference_CV[part])(logits_CV, targets_C, EVERY)["kl"]
        return asft_loss(_target_logp(logits_CV, targets_C), kl_C, alpha=0.1).mean()

    def theirs(logits_CV: Tensor, reference_CV: Tensor, targets_C: Tensor) -> Tensor:
        entropy_C = functional.cross_entropy(logits_CV, targets_C, reduction="none")
        target_CV = reference_CV.detach().softmax(-1)
        kl_C = functional.kl_div(logits_CV.log_softmax(-1), target_CV, reduction="none").sum(-1)
        return (entropy_C * (-entropy_C.detach()).exp()).mean() + 0.1 * kl_C.mean()

    return compare("sft, ASFT", "formula, float64 (torch kl_div)", mine, theirs, draw_logits)


def smoothing_row(epsilon: float) -> Row:
    """Label smoothing, mean over tokens, two of which are not supervised."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        logits_CV, _, targets_C = draw_logits(generator)
        targets_C[torch.tensor([4, 7])] = -100
        return logits_CV, targets_C

    def mine(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
        kept = targets_C != -100
        logits_CV, targets_C = logits_CV[kept], targets_C[kept]
        mean_C = mean_logp(logits_CV, targets_C, EVERY)["mean_logp"]
        return smoothed_loss(_target_logp(logits_CV, targets_C), mean_C, epsilon=epsilon).mean()

    def theirs(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
        from transformers.trainer_pt_utils import LabelSmoother

        return LabelSmoother(epsilon=epsilon)({"logits": logits_CV[None]}, targets_C[None])

    oracle = "transformers LabelSmoother (its sum is fp32)"
    return compare(f"sft, label smoothing {epsilon}", oracle, mine, theirs, draw)


for _beta in (0.0, 0.1, 0.5, 0.9, 1.0):
    check(f"gkd/beta={_beta}", partial(gkd_row, _beta, 1.0))
check("gkd/temperature", partial(gkd_row, 0.5, 2.0))
for _beta in (0.0, 0.5, 1.0):
    check(f"gkd/topk/beta={_beta}", partial(topk_row, _beta))
check("sft/dft", dft_row)
for _alpha in (1.0, 0.5):
    check(f"sft/eaft/alpha={_alpha}", partial(eaft_row, _alpha))
check("sft/asft", asft_row)
check("sft/label_smoothing", partial(smoothing_row, 0.1))
