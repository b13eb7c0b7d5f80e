"""Choose the next token from its logits: repetition penalty, temperature, top-k, top-p, in transformers' order.

Pure functions of one row of logits. Sampling draws on the CPU from a generator of its own, so that the same seed
gives the same answer whatever else the process draws.
"""

from __future__ import annotations

import torch

from tunesmith.infer.engine import SamplingParams


def choose_token(
    logits_V: torch.Tensor, seen_ids: torch.Tensor, params: SamplingParams, generator: torch.Generator
) -> int:
    """The next token id.

    Args:
        logits_V: scores over the vocabulary, any float dtype and device.
        seen_ids: ids of the prompt and of the answer so far, which the repetition penalty acts on.
    """
    logits_V = penalize_repetition(logits_V.float(), seen_ids, params.repetition_penalty)
    if params.greedy:
        return int(logits_V.argmax())
    logits_V = keep_top_k(logits_V / params.temperature, params.top_k)
    probs_V = keep_top_p(logits_V.softmax(-1), params.top_p)
    return int(torch.multinomial(probs_V.cpu(), 1, generator=generator))


def penalize_repetition(logits_V: torch.Tensor, seen_ids: torch.Tensor, penalty: float) -> torch.Tensor:
    """Make seen tokens less likely: positive scores are divided, negative multiplied (CTRL, arXiv 1909.05858)."""
    if penalty == 1.0:
        return logits_V
    seen = logits_V[seen_ids]
    return logits_V.index_put((seen_ids,), torch.where(seen > 0, seen / penalty, seen * penalty))


def keep_top_k(logits_V: torch.Tensor, top_k: int) -> torch.Tensor:
    """Rule out all but the `top_k` best tokens (and those that tie with the last of them); 0 keeps all."""
    if top_k == 0 or top_k >= logits_V.shape[-1]:
        return logits_V
    return logits_V.masked_fill(logits_V < logits_V.topk(top_k).values[-1], float("-inf"))


def keep_top_p(probs_V: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of most likely tokens whose probabilities reach `top_p` (arXiv 1904.09751).

    The result is not normalised; the most likely token always stays.
    """
    if top_p >= 1.0:
        return probs_V
    ordered, order = probs_V.sort(descending=True)
    mass_before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probs_V).scatter(0, order, ordered.masked_fill(mass_before >= top_p, 0.0))
