"""How two models answer the same prompts: the measurements behind an export's proof.

One sequence per prompt: the prompt and the greedy answer of the model that was tried. Every model scores the same
sequences, so a single pass each compares all prompt positions and the whole greedy path. If another model's best
token is the next one everywhere along the answer, it gives the same greedy answer. Beside logits and log-probabilities
there is the loss on held-out rows, the one number that says what a difference is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.hf import HFEngine


@dataclass(frozen=True)
class Scored:
    """A prompt, an answer, and the logits (T, V) of one model over both; on the CPU, float32."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    logits_TV: torch.Tensor


@dataclass(frozen=True)
class Difference:
    """Two models over all positions of all sequences.

    Attributes:
        largest: largest absolute logit difference.
        rms: root mean square of the logit differences.
        largest_logit: largest absolute logit of the first model: the scale of the other two.
        num_agreeing, num_answer_tokens: answer tokens of the first model that the second would choose too, of all.
        logprob: mean absolute difference of the log-probability of the answer tokens, in nats; `logprob_error` is the
            standard error of that mean, `largest_logprob` the largest difference.
        kl: mean of KL(first || second) over all positions, in nats.
    """

    largest: float
    rms: float
    largest_logit: float
    num_agreeing: int
    num_answer_tokens: int
    logprob: float
    logprob_error: float
    largest_logprob: float
    kl: float

    @property
    def agreement(self) -> float:
        """Share of the answer tokens on which both agree; 1 when there are none."""
        return self.num_agreeing / self.num_answer_tokens if self.num_answer_tokens else 1.0


def answer_and_score(
    model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], stop_ids: tuple[int, ...], max_new_tokens: int
) -> list[Scored]:
    """The greedy answers of `model`, and its logits along them."""
    answers = greedy_answers(model, tokenizer, prompts, stop_ids, max_new_tokens)
    return [
        Scored(prompt, answer, score(model, prompt + answer)) for prompt, answer in zip(prompts, answers, strict=True)
    ]


def greedy_answers(
    model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], stop_ids: tuple[int, ...], max_new_tokens: int
) -> list[tuple[int, ...]]:
    """The ids that `model` answers with when it always takes the likeliest token."""
    engine = HFEngine(model, tokenizer)
    greedy = SamplingParams(max_new_tokens=max_new_tokens, do_sample=False, stop_ids=stop_ids)
    return [tuple(engine.generate(prompt_ids, greedy).token_ids) for prompt_ids in prompts]


@torch.inference_mode()
def score(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits (T, V) of a sequence of T ids, float32 on the CPU."""
    input_ids = torch.tensor([ids], device=model.device)
    return model(input_ids=input_ids, use_cache=False).logits[0].float().cpu()


def rescored(reference: Sequence[Scored], model: Any) -> list[Scored]:
    """The same sequences with the logits of `model`."""
    return [Scored(one.prompt_ids, one.answer_ids, score(model, one.prompt_ids + one.answer_ids)) for one in reference]


def compare(reference: Sequence[Scored], others: Sequence[Scored]) -> Difference:
    """Two models' logits over the same sequences."""
    largest = largest_logit = square_sum = kl_sum = 0.0
    num_values = num_positions = num_agreeing = 0
    gaps: list[torch.Tensor] = []
    for scored, other in zip(reference, others, strict=True):
        gap_TV = (other.logits_TV - scored.logits_TV).abs()
        largest = max(largest, _max(gap_TV))
        largest_logit = max(largest_logit, _max(scored.logits_TV.abs()))
        square_sum += float(gap_TV.double().square().sum())
        num_values += gap_TV.numel()
        ours_TV, theirs_TV = scored.logits_TV.log_softmax(-1), other.logits_TV.log_softmax(-1)
        kl_sum += float((ours_TV.exp() * (ours_TV - theirs_TV)).sum())
        num_positions += len(ours_TV)
        # The token at position t is chosen from the logits at t - 1.
        span = slice(len(scored.prompt_ids) - 1, -1)
        answer_N = torch.tensor(scored.answer_ids, dtype=torch.long)
        num_agreeing += int((other.logits_TV[span].argmax(-1) == answer_N).sum())
        gaps.append((ours_TV[span] - theirs_TV[span]).gather(-1, answer_N[:, None])[:, 0].abs().double())
    return Difference(
        largest,
        (square_sum / num_values) ** 0.5,
        largest_logit,
        num_agreeing,
        sum(len(one) for one in gaps),
        *_spread(torch.cat(gaps)),
        kl=kl_sum / num_positions,
    )


def _spread(gaps_N: torch.Tensor) -> tuple[float, float, float]:
    """(mean, standard error of the mean, largest); zeros for no values."""
    if not len(gaps_N):
        return 0.0, 0.0, 0.0
    return float(gaps_N.mean()), float(gaps_N.std(unbiased=False)) / len(gaps_N) ** 0.5, _max(gaps_N)


def share_of_effect(tuned: Sequence[Scored], folder: Sequence[Scored], base: Sequence[Scored]) -> float:
    """How much of the way from the base to the tuned model the folder has gone, along that way: 1 all of it, 0 none.

    Below 0.5 the folder's logits are nearer to the base than to the tuned model. What rounding adds points elsewhere
    and so hardly counts.
    """
    along = length = 0.0
    for one, other, start in zip(tuned, folder, base, strict=True):
        way_TV = (one.logits_TV - start.logits_TV).double()
        along += float(((other.logits_TV - start.logits_TV) * way_TV).sum())
        length += float(way_TV.square().sum())
    return along / length if length else 0.0


@dataclass(frozen=True)
class HeldOutLosses:
    """The loss of each weighted token of the held-out rows, in nats (N), and the weights (N)."""

    losses_N: torch.Tensor
    weights_N: torch.Tensor

    @property
    def mean(self) -> float:
        """Weighted mean in nats per token."""
        return float((self.losses_N * self.weights_N).sum() / self.weights_N.sum())

    def shift_error(self, before: HeldOutLosses) -> float:
        """Standard error of the mean's shift against `before`, token by token: how far chance alone moves it."""
        gap_N = (self.losses_N - before.losses_N).double()
        return float(gap_N.std(unbiased=False)) / len(gap_N) ** 0.5


@torch.inference_mode()
def held_out_losses(model: Any, rows: Sequence[Mapping[str, Sequence[float]]]) -> HeldOutLosses:
    """The loss on `rows` (`ids`, `weights` of equal length), over the tokens whose weight is not 0."""
    losses, weights = [], []
    for row in rows:
        ids = torch.tensor([row["ids"]], device=model.device, dtype=torch.long)
        weights_T = torch.tensor(row["weights"])[1:]
        logits_TV = model(input_ids=ids, use_cache=False).logits[0, :-1].float().cpu()
        losses_T = torch.nn.functional.cross_entropy(logits_TV, ids[0, 1:].cpu(), reduction="none")
        losses.append(losses_T[weights_T != 0])
        weights.append(weights_T[weights_T != 0])
    return HeldOutLosses(torch.cat(losses), torch.cat(weights))


def _max(values: torch.Tensor) -> float:
    """The largest value; infinity when any is not a number, so that no comparison passes by accident."""
    return float("inf") if bool(values.isnan().any()) else float(values.max())
