"""Attention over flat rows: documents that share a row never see each other, branches of one share their prefix.

A flat row is several documents laid end to end. Instead of a T x T mask, scaled dot-product attention
runs once per document, causally, so the work is the sum of the squared document lengths and no mask is
ever built. A document with branches runs once for its prefix and once for each branch, which sees the prefix and
itself: the prefix of a preference pair is computed once, and its gradients add up by themselves. It plugs in
through transformers' own attention registry under the name `tunesmith_documents`; the borders arrive as the
keyword `document_bounds` (Python integers: no device synchronisation).

Limits: one row per batch (B = 1); sliding windows need a small mask for documents longer than the window.
References: Krell et al., "Efficient Sequence Packing without Cross-contamination", arXiv 2107.02027;
Wang and Hegde, "Accelerating Direct Preference Optimization with Prefix Sharing", arXiv 2410.20305.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tunesmith.errors import ModelError

DOCUMENT_ATTENTION = "tunesmith_documents"
SHORT_DOCUMENT_TOKENS = 384
"""Up to here the CPU kernel is faster in fp32: its bf16 backward pass converts element by element. Forward and
backward of 9 heads of 64 on two cores: 5.0 ms in bf16, 1.9 ms in fp32 at 130 tokens; 14.0 and 17.7 ms at 512."""


def document_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    document_bounds: tuple[tuple[int, ...], ...] | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document of a flat row.

    Args:
        query_BHTD, key_BHTD, value_BHTD: B = 1; the key and value may have fewer heads (grouped queries).
        document_bounds: the borders of each document's pieces, as in `data.collate.Batch.documents`.
        sliding_window: each token sees at most this many tokens, itself included.
        s_aux: attention sinks, which are refused.
        softcap: scores are squashed to (-softcap, softcap) by tanh before the softmax (Gemma 2).

    Returns:
        (B, T, H, D) and None in place of the attention weights.

    Raises:
        ModelError: the model's code did not hand the borders down to its attention layers.
    """
    if s_aux is not None:
        raise ModelError(
            f"{type(module).__name__} has attention sinks (extra scores in every softmax), which training leaves out",
            why="the model would be trained as another function than the one that is served",
            fix="use a model without attention sinks; gpt_oss has them",
        )
    if document_bounds is None:
        raise ModelError(
            f"{type(module).__name__} did not receive the document borders of the flat row",
            why="this model's code does not pass keyword arguments on to its attention",
            fix="set `micro_batch_tokens: 1` so that each row holds one document, and report the model type",
        )
    lengths = [end - start for borders in document_bounds for start, end in pairwise(borders)]
    # split, not slicing: the gradient of one split is one concatenation, that of S slices is S full-size sums
    pieces = list(
        zip(query_BHTD.split(lengths, 2), key_BHTD.split(lengths, 2), value_BHTD.split(lengths, 2), strict=True)
    )
    attend = _Attend(scaling, dropout, sliding_window, softcap)
    outputs: list[Tensor] = []
    for borders in document_bounds:
        num_pieces = len(borders) - 1
        outputs += _document(pieces[:num_pieces], attend)
        pieces = pieces[num_pieces:]
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return joined.transpose(1, 2).contiguous(), None


Piece = tuple[Tensor, Tensor, Tensor]
"""Query, key and value of one piece, each (1, H, T, D)."""


def _document(pieces: Sequence[Piece], attend: _Attend) -> list[Tensor]:
    """The outputs of a document's pieces: the first alone, each further one behind the first."""
    (_, prefix_key, prefix_value), *branches = pieces
    outputs = [attend(*pieces[0])]
    for query, key, value in branches:
        outputs.append(attend(query, torch.cat([prefix_key, key], 2), torch.cat([prefix_value, value], 2)))
    return outputs


@dataclass(frozen=True, slots=True)
class _Attend:
    """Causal attention of the last tokens of a sequence (the queries) to all of it (keys and values)."""

    scaling: float | None
    dropout: float
    sliding_window: int | None
    softcap: float | None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        num_queries, num_keys = query.shape[2], key.shape[2]
        if num_queries == 0:
            return query.new_zeros(*query.shape[:3], value.shape[-1])
        windowed = self.sliding_window is not None and num_keys > self.sliding_window
        is_plain = num_queries == num_keys and not windowed
        mask = None if is_plain else visible_keys(num_queries, num_keys, self.sliding_window, query.device)
        if self.softcap is not None:
            return softcapped(query, key, value, mask, self.scaling, self.dropout, self.softcap)
        return _fused(query, key, value, mask, self.scaling, self.dropout)


def _fused(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, dropout: float
) -> Tensor:
    """torch's kernel, in the dtype in which it is faster on this device. (1, H, T, D) in the value's dtype.

    Where fp32 weights are computed with in bf16, the rotation has widened query and key, but not the value.
    """
    dtype, device = value.dtype, value.device.type
    short = key.shape[2] <= SHORT_DOCUMENT_TOKENS
    if device == "cpu" and dtype == torch.bfloat16 and short:
        query, key, value = query.float(), key.float(), value.float()
    else:
        query, key = query.to(dtype), key.to(dtype)
    with torch.autocast(device, enabled=False):  # it would narrow them again
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
    return out.to(dtype)


@lru_cache(maxsize=256)  # every layer asks for the same ones
def visible_keys(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """(queries, keys) boolean: True where a token may look: at itself and, within the window, at what is before it.

    The queries are the last `num_queries` tokens of the sequence.
    """
    key_position = torch.arange(num_keys, device=device)
    distance = key_position[num_keys - num_queries :, None] - key_position[None, :]
    allowed = distance >= 0
    return allowed if window is None else allowed & (distance < window)


def softcapped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float,
) -> Tensor:
    """Attention with capped scores, written out because the fused kernels have no tanh. (1, H, T, D)."""
    num_repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(num_repeats, 1), value.repeat_interleave(num_repeats, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * scale / softcap)
    allowed = visible_keys(query.shape[2], key.shape[2], None, query.device) if mask is None else mask
    scores = scores.masked_fill(~allowed, float("-inf"))
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout)
    return weights @ value


def no_mask(*_args: Any, **_kwargs: Any) -> None:
    """A maker of masks that makes none: the borders of documents replace it."""


def register_document_attention() -> None:
    """Make `tunesmith_documents` a choice of `attn_implementation`. Idempotent."""
    AttentionInterface.register(DOCUMENT_ATTENTION, document_attention)
    AttentionMaskInterface.register(DOCUMENT_ATTENTION, no_mask)
