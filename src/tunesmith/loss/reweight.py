"""Variants of the token cross-entropy: DFT, EAFT, ASFT and label smoothing.

Each is one vector loss_N, one entry per supervised token, to be summed with the tokens' weights (`weighted_sum`). What
needs more of the logits than the target's own comes from a chunk function: the scorer calls it where the logits are,
a chunk of tokens at a time, so that the logits of a row are never held.

| loss | per token | reference |
|---|---|---|
| DFT | -p x log p, no gradient through p | Wu et al. 2025, arXiv 2508.05629 |
| EAFT | -(H / 3)^alpha x log p, H: entropy of the top 20 tokens, no gradient | Diao et al. 2026, arXiv 2601.02151 |
| ASFT | DFT + alpha x KL(reference || policy) | Zhu et al. 2025, arXiv 2509.23753 |
| label smoothing | -(1 - eps) x log p - eps x mean over the vocabulary of log p | Szegedy et al. 2016; transformers |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tunesmith.loss.distill import ChunkFunction, kl_divergence

LogitsOfPart = Callable[[slice], Tensor]
"""Which of the N tokens -> logits_CV of another model."""
EAFT_TOKENS = 20
EAFT_SCALE = 3.0
"""The entropy of 20 equally likely tokens is log 20 = 3.0 nats, so that the weight lies between 0 and 1."""


def weighted_sum(loss_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of weight x loss, sum of weights), both ()."""
    return (loss_N * weight_N).sum(), weight_N.sum()


def dft_loss(logp_N: Tensor) -> Tensor:
    """Cross-entropy times the probability that the policy gives the target now (no gradient through it), (N,)."""
    return -logp_N * logp_N.detach().exp()


def topk_entropy(logits_CV: Tensor, targets_C: Tensor, part: slice) -> dict[str, Tensor]:
    """Chunk function: "entropy" (nats, no gradient) of the 20 likeliest tokens, renormalised among themselves."""
    top_CK = logits_CV.detach().topk(min(EAFT_TOKENS, logits_CV.shape[-1]), dim=-1).values
    logp_CK = top_CK.log_softmax(-1)
    return {"entropy": -(logp_CK.exp() * logp_CK).sum(-1)}


def eaft_loss(logp_N: Tensor, entropy_N: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Cross-entropy times (entropy / 3)^alpha: tokens that the policy is sure of count less, (N,)."""
    return -logp_N * (entropy_N.detach() / EAFT_SCALE) ** alpha


def reference_kl_function(reference_logits: LogitsOfPart) -> ChunkFunction:
    """Chunk function: "kl" = KL(reference || policy) of each token; `reference_logits(part)` gives logits_CV."""

    def function(logits_CV: Tensor, targets_C: Tensor, part: slice) -> dict[str, Tensor]:
        reference_logp_CV = reference_logits(part).detach().to(logits_CV.dtype).log_softmax(-1)
        return {"kl": kl_divergence(reference_logp_CV, logits_CV.log_softmax(-1))}

    return function


def asft_loss(logp_N: Tensor, kl_N: Tensor, *, alpha: float = 0.1) -> Tensor:
    """DFT + alpha x KL to the reference, (N,).

    The public tool adds two means of a micro-batch; summed over tokens and divided once, the terms are the same two
    means of the global batch.
    """
    return dft_loss(logp_N) + alpha * kl_N


def mean_logp(logits_CV: Tensor, targets_C: Tensor, part: slice) -> dict[str, Tensor]:
    """Chunk function: "mean_logp", the mean over the vocabulary of the log-probabilities."""
    return {"mean_logp": logits_CV.mean(-1) - torch.logsumexp(logits_CV, -1)}


def smoothed_loss(logp_N: Tensor, mean_logp_N: Tensor, *, epsilon: float) -> Tensor:
    """Cross-entropy against a target that leaves `epsilon` to the whole vocabulary evenly, (N,)."""
    return -(1 - epsilon) * logp_N - epsilon * mean_logp_N
