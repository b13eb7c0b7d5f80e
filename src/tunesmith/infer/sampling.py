"""Choose the next token from its logits: OpenAI's penalties and biases, then repetition penalty, temperature, top-k
and top-p in transformers' order.

Pure functions over the last dimension, so that one row and a batch of rows mean the same. Sampling draws on the CPU
from a generator of each row's own, so that the same seed gives the same answer whatever else the process draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunesmith.infer.engine import SamplingParams, Scored

NUCLEUS_TOKENS = 1024
"""Among so many of the best tokens top-p looks first: ordering the whole vocabulary costs ten times as much."""


def choose_token(
    logits_V: torch.Tensor, seen_ids: torch.Tensor, params: SamplingParams, generator: torch.Generator
) -> int:
    """The next token id.

    Args:
        logits_V: scores over the vocabulary, any float dtype and device.
        seen_ids: ids of the prompt and of the answer so far, which the repetition penalty acts on.
    """
    return choose_tokens(logits_V[None], [seen_ids], params, [generator])[0]


def choose_tokens(
    logits_BV: torch.Tensor,
    seen_ids: Sequence[torch.Tensor],
    params: SamplingParams,
    generators: Sequence[torch.Generator],
) -> list[int]:
    """The next token id of each of B rows; row b depends on `logits_BV[b]`, `seen_ids[b]` and `generators[b]` only."""
    logits_BV = logits_BV.float()
    if params.repetition_penalty != 1.0:
        rows = zip(logits_BV, seen_ids, strict=True)
        logits_BV = torch.stack([penalize_repetition(row_V, ids, params.repetition_penalty) for row_V, ids in rows])
    if params.greedy:
        return logits_BV.argmax(-1).tolist()
    logits_BV = keep_top_k(logits_BV / params.temperature, params.top_k)
    return draw(keep_top_p(logits_BV.softmax(-1), params.top_p).cpu(), generators)


def adjust(logits_V: torch.Tensor, answer_ids: Sequence[int], params: SamplingParams) -> torch.Tensor:
    """Scores with `logit_bias` added and the presence and frequency penalties subtracted; `logits_V` when none is set.

    logit[t] + bias[t] - frequency_penalty * count(t) - presence_penalty * [count(t) > 0], with counts over the answer
    so far; the prompt does not count. Source: OpenAI's API reference, "frequency and presence penalties".
    """
    if params.logit_bias:
        ids, biases = zip(*params.logit_bias, strict=True)
        logits_V = logits_V.index_add(0, torch.tensor(ids), torch.tensor(biases))
    if answer_ids and (params.presence_penalty or params.frequency_penalty):
        seen, counts = torch.tensor(answer_ids).unique(return_counts=True)
        logits_V = logits_V.index_add(0, seen, -params.presence_penalty - params.frequency_penalty * counts.float())
    return logits_V


def scored(logits_NV: torch.Tensor, ids_N: torch.Tensor, num_best: int) -> list[Scored]:
    """The log-probability of each of N tokens, and the `num_best` likeliest in its place with theirs."""
    logprobs_NV = logits_NV.float().log_softmax(-1)
    own = logprobs_NV.gather(-1, ids_N[:, None])[:, 0].tolist()
    best = logprobs_NV.topk(min(num_best, logprobs_NV.shape[-1]))
    rows = zip(own, best.indices.tolist(), best.values.tolist(), strict=True)
    return [(logprob, tuple(zip(ids, values, strict=True))) for logprob, ids, values in rows]


def draw(probs_BV: torch.Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """One token of each row with these probabilities (which need not add up to 1), by one number of its generator.

    One uniform number and a search in the summed probabilities: `torch.multinomial` draws V numbers per row, which at
    16 rows and V = 49,152 took 15 % of the whole generation.
    """
    mass_BV = probs_BV.double().cumsum(-1)
    whole_B = mass_BV[:, -1]
    shares = [torch.rand((), dtype=torch.float64, generator=generator) for generator in generators]
    # below the whole mass, also where the product is rounded up to it
    points_B = torch.minimum(torch.stack(shares) * whole_B, whole_B.nextafter(torch.zeros_like(whole_B)))
    return torch.searchsorted(mass_BV, points_B[:, None], right=True)[:, 0].tolist()


def penalize_repetition(logits_V: torch.Tensor, seen_ids: torch.Tensor, penalty: float) -> torch.Tensor:
    """Make seen tokens less likely: positive scores are divided, negative multiplied (CTRL, arXiv 1909.05858)."""
    if penalty == 1.0:
        return logits_V
    seen = logits_V[seen_ids]
    return logits_V.index_put((seen_ids,), torch.where(seen > 0, seen / penalty, seen * penalty))


def keep_top_k(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """(..., V): rule out all but the `top_k` best tokens (and those that tie with the last of them); 0 keeps all."""
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], float("-inf"))


def keep_top_p(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """(..., V): keep the smallest set of most likely tokens whose probabilities reach `top_p` (arXiv 1904.09751).

    The result is not normalised; the most likely token always stays.
    """
    if top_p >= 1.0:
        return probs
    num_tokens = probs.shape[-1]
    for num_best in (min(NUCLEUS_TOKENS, num_tokens), num_tokens):
        ordered, order = probs.topk(num_best)
        if bool((ordered.sum(-1) > top_p).all()):
            break
    mass_before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probs).scatter(-1, order, ordered.masked_fill(mass_before >= top_p, 0.0))
