"""How two models answer the same prompts, and how their weights differ: the measurements behind an export's proof.

One sequence per prompt: the prompt and the greedy answer of the model that was tried. Every model scores the same
sequences, so a single pass each compares all prompt positions and the whole greedy path. If another model's best
token is the next one everywhere along the answer, it gives the same greedy answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

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
    """

    largest: float
    rms: float
    largest_logit: float
    num_agreeing: int
    num_answer_tokens: int


def answer_and_score(
    model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], stop_ids: tuple[int, ...], max_new_tokens: int
) -> list[Scored]:
    """The greedy answers of `model`, and its logits along them."""
    engine = HFEngine(model, tokenizer)
    greedy = SamplingParams(max_new_tokens=max_new_tokens, do_sample=False, stop_ids=stop_ids)
    answers = [engine.generate(prompt_ids, greedy).token_ids for prompt_ids in prompts]
    return [
        Scored(prompt, answer, score(model, prompt + answer)) for prompt, answer in zip(prompts, answers, strict=True)
    ]


@torch.inference_mode()
def score(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits (T, V) of a sequence of T ids, float32 on the CPU."""
    input_ids = torch.tensor([ids], device=model.device)
    return model(input_ids=input_ids, use_cache=False).logits[0].float().cpu()


def compare(reference: Sequence[Scored], model: Any) -> Difference:
    """`model` against what was scored before, over the same sequences."""
    largest = largest_logit = square_sum = 0.0
    num_values = num_agreeing = num_answer_tokens = 0
    for scored in reference:
        other_TV = score(model, scored.prompt_ids + scored.answer_ids)
        gap_TV = (other_TV - scored.logits_TV).abs()
        largest = max(largest, _max(gap_TV))
        largest_logit = max(largest_logit, _max(scored.logits_TV.abs()))
        square_sum += float(gap_TV.double().square().sum())
        num_values += gap_TV.numel()
        # The token at position t is chosen from the logits at t - 1.
        chosen = other_TV[len(scored.prompt_ids) - 1 : -1].argmax(-1)
        num_agreeing += int((chosen == torch.tensor(scored.answer_ids)).sum())
        num_answer_tokens += len(scored.answer_ids)
    return Difference(largest, (square_sum / num_values) ** 0.5, largest_logit, num_agreeing, num_answer_tokens)


# Half a unit in the last place, relative: how far rounding to nearest can move a weight.
HALF_ULP = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def misplaced_weights(model: Any, files: Iterable[Path], dtype: str) -> tuple[int, list[str]]:
    """(tensors compared, names of those that differ from the model's by more than rounding to `dtype`).

    Sharper than logits: the update of one matrix that was not written shows here whatever it does to the answers.

    Args:
        model: the merged model in float32.
        files: safetensors files, whose tensors are compared one at a time with those of the same name.
    """
    expected = model.state_dict()
    num_compared, wrong = 0, []
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            names = sorted(set(file.keys()) & set(expected))
            wrong += [name for name in names if not _is_rounded(file.get_tensor(name), expected[name], dtype)]
            num_compared += len(names)
    return num_compared, wrong


def _is_rounded(stored: torch.Tensor, merged: torch.Tensor, dtype: str) -> bool:
    """Whether `stored` is `merged` rounded to `dtype`."""
    merged = merged.float().cpu()
    # The second term: sums of the update in another order, and numbers too small for float16.
    allowed = 1.01 * HALF_ULP[dtype] * merged.abs() + 1e-6 * merged.abs().max()
    return bool(((stored.float() - merged).abs() <= allowed).all())


def _max(values: torch.Tensor) -> float:
    """The largest value; infinity when any is not a number, so that no comparison passes by accident."""
    return float("inf") if bool(values.isnan().any()) else float(values.max())
