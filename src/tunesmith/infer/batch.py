"""Many answers at once, from a model that may be in the middle of being trained.

A rollout is what a reward is given for: prompts in, sampled answers out. The prompts are sorted by length, put into
batches under a token budget and padded on the left; equal prompts of a batch are read once and their cache is copied;
a row that has ended leaves the batch. Each row draws from a generator of its own seed, so an answer is a function of
(weights, prompt, seed, params) and not of its company: in fp32 the tokens are the same alone, in any batch and in
`infer/hf.py` (up to rounding: another batch shape sums in another order, which in bf16 can turn a near tie).

    with generating(model, torch.bfloat16):
        answers = rollout(model, prompts, params, seeds=seeds, max_batch_tokens=8192)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.infer.engine import SamplingParams, num_new_tokens
from tunesmith.infer.sampling import choose_tokens
from tunesmith.model.evaluating import evaluating
from tunesmith.model.growing_cache import growing_cache
from tunesmith.model.kernels import PLAIN_ATTENTION
from tunesmith.model.rope import context_length

MAX_BATCH_TOKENS = 8192
"""Default for rows x (longest prompt + new tokens): the size of the key/value cache of one batch."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer. `ids` are all tokens produced, the stop token included; `finished`: it ended with one."""

    ids: tuple[int, ...]
    finished: bool


@contextmanager
def generating(model: Any, compute_dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Let a model that is being trained generate inside the block, and put everything back after it.

    Evaluation mode (no dropout, and with it no gradient checkpointing, which would switch the cache off), no
    gradients, an attention that knows padding in place of the one over flat rows, products in `compute_dtype`.

    Args:
        model: a transformers causal language model, with or without PEFT around it.
        compute_dtype: dtype of the matrix products; unlike the weights' dtype it runs under autocast.
    """
    base = base_model(model)
    device_type = next(model.parameters()).device.type
    # an outer autocast would keep the weights it narrowed here, without gradients, for the training step after it
    assert not torch.is_autocast_enabled(device_type), "leave autocast before generating"
    attention = base.config._attn_implementation
    autocast = nullcontext() if compute_dtype == torch.float32 else torch.autocast(device_type, dtype=compute_dtype)
    try:
        if attention not in ("sdpa", "eager"):
            # eager where the model's scores are capped (Gemma 2), which the fused kernel would leave out, or on request
            fused = getattr(base, "_supports_sdpa", True) and attention != PLAIN_ATTENTION
            base.set_attn_implementation("sdpa" if fused else "eager")
        with evaluating(model), autocast:
            yield
    finally:
        base.set_attn_implementation(attention)


def rollout(
    model: Any,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    seeds: Sequence[int],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> list[Rollout]:
    """One answer per prompt, in the order of the prompts. Call it inside `generating(model)`.

    Args:
        prompts: token ids; the same prompt may come several times, with different seeds.
        params: as for one answer; `params.stop_ids` end a row, `params.seed` is not read.
        seeds: one per prompt; with the prompt it decides the answer.
        max_batch_tokens: rows x (longest prompt + new tokens) of one batch; a single row may exceed it.

    Raises:
        ModelError: a prompt is empty or leaves no room for an answer.
    """
    assert len(seeds) == len(prompts), f"{len(seeds)} seeds for {len(prompts)} prompts"
    assert not model.training, "rollout belongs inside generating(model)"
    context = context_length(model.config)
    rows = [
        _Row(index, tuple(prompt), num_new_tokens(len(prompt), params, context), torch.Generator().manual_seed(seed))
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    for batch in _batches(rows, max_batch_tokens):
        _answer(model, batch, params)
    return [Rollout(tuple(row.ids), row.finished) for row in rows]


@dataclass(slots=True)
class _Row:
    """A prompt on its way to an answer of at most `room` tokens."""

    index: int
    prompt: tuple[int, ...]
    room: int
    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    finished: bool = False

    def take(self, token_id: int, stop_ids: Sequence[int]) -> bool:
        """Add a token. Returns whether the row goes on."""
        self.ids.append(token_id)
        self.finished = token_id in stop_ids
        return not self.finished and len(self.ids) < self.room


def _batches(rows: Sequence[_Row], max_batch_tokens: int) -> Iterator[list[_Row]]:
    """Rows of like length together, equal prompts side by side; the longest first, where memory is shortest."""
    batch: list[_Row] = []
    longest = 0
    for row in sorted(rows, key=lambda row: (-len(row.prompt), row.prompt, row.index)):
        widened = max(longest, len(row.prompt) + row.room)
        if batch and (len(batch) + 1) * widened > max_batch_tokens:
            yield batch
            batch, widened = [], len(row.prompt) + row.room
        batch.append(row)
        longest = widened
    if batch:
        yield batch


def _answer(model: Any, rows: list[_Row], params: SamplingParams) -> None:
    """Fill in the answers of one batch."""
    device = next(model.parameters()).device
    logits_BV, cache, mask_BT, positions_B = _read_prompts(model, [row.prompt for row in rows], device)
    extra = last_row_only(model)
    while True:
        tokens = choose_tokens(logits_BV, _seen(rows, params, device), params, [row.generator for row in rows])
        going = [b for b, (row, token) in enumerate(zip(rows, tokens, strict=True)) if row.take(token, params.stop_ids)]
        if not going:
            return
        if len(going) < len(rows):
            keep_B = torch.tensor(going, device=device)
            cache.batch_select_indices(keep_B)
            mask_BT, positions_B = mask_BT[keep_B], positions_B[keep_B]
            rows = [rows[b] for b in going]
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)
        output = model(
            input_ids=torch.tensor([[tokens[b]] for b in going], device=device),
            attention_mask=mask_BT,
            position_ids=positions_B[:, None],
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
            **extra,
        )
        logits_BV = output.logits[:, -1]
        positions_B = positions_B + 1


def _read_prompts(
    model: Any, prompts: Sequence[tuple[int, ...]], device: torch.device
) -> tuple[Tensor, Any, Tensor, Tensor]:
    """Logits (B, V) after each prompt, the cache, its mask (B, T) and the next position (B); each prompt read once."""
    distinct = list(dict.fromkeys(prompts))
    width = max(len(prompt) for prompt in distinct)
    input_ids = torch.tensor([(0,) * (width - len(prompt)) + prompt for prompt in distinct], device=device)
    lengths = torch.tensor([len(prompt) for prompt in distinct], device=device)
    column_T = torch.arange(width, device=device)
    first_real = (width - lengths)[:, None]
    mask = (column_T >= first_real).long()
    cache = growing_cache(model)
    output = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=(column_T - first_real).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        return_dict=True,
        **last_row_only(model),
    )
    logits = output.logits[:, -1]
    if len(distinct) == len(prompts):
        return logits, cache, mask, lengths
    number = {prompt: index for index, prompt in enumerate(distinct)}
    copies_B = torch.tensor([number[prompt] for prompt in prompts], device=device)
    cache.batch_select_indices(copies_B)
    return logits[copies_B], cache, mask[copies_B], lengths[copies_B]


def _seen(rows: Sequence[_Row], params: SamplingParams, device: torch.device) -> list[Tensor]:
    """Ids of prompt and answer of each row, for the repetition penalty; empty where it is off."""
    if params.repetition_penalty == 1.0:
        return [torch.empty(0, dtype=torch.long)] * len(rows)
    return [torch.tensor((*row.prompt, *row.ids), device=device) for row in rows]


def base_model(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def last_row_only(model: nn.Module) -> dict[str, Any]:
    """Arguments that ask for the logits of the last position alone: a head over a whole prompt costs T x V numbers."""
    can_keep_last = "logits_to_keep" in inspect.signature(base_model(model).forward).parameters
    return {"logits_to_keep": 1} if can_keep_last else {}
