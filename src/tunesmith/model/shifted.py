"""`shift_attn`: LongLoRA's shifted sparse attention, for training on long texts with less work.

A document is cut into groups of G tokens and each token attends within its group only, so the work falls from T^2 to
T x G. In the second half of the heads the borders lie half a group later, so that information still passes from group
to group. G is a quarter of `cutoff_len`, the same for every document; one of at most G / 2 tokens has full attention
in every head, and one of at most G in the first half of them.

Two differences from the published drawing, both towards full attention: the half group at the start of the shifted
heads is a group of its own instead of one that wraps round to the end of the text, so no token sees a later one (the
paper names this leak and its repair in its appendix); and the length of a group does not depend on the batch.
Evaluation and inference use full attention, as the paper does.
Reference: Chen et al., "LongLoRA", arXiv 2309.12307.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tunesmith.data.collate import Document
from tunesmith.errors import ConfigError
from tunesmith.model.attention import document_attention, no_mask

GROUP_SHARE = 4
"""A group is this part of cutoff_len."""
SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers all attend to the whole text; others have windows or several kinds of layers."""


def shifted_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    *,
    group_tokens: int,
    document_bounds: tuple[Document, ...] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention within groups while `module` is training, full attention within each document otherwise.

    Args:
        query_BHTD, key_BHTD, value_BHTD, document_bounds, options: as for `document_attention`.
        group_tokens: G. The shift is G // 2.

    Returns:
        (B, T, H, D) and None.
    """
    if not module.training or document_bounds is None:  # document_attention explains missing borders
        return document_attention(
            module, query_BHTD, key_BHTD, value_BHTD, attention_mask, document_bounds=document_bounds, **options
        )
    num_heads, num_key_heads = query_BHTD.shape[1], key_BHTD.shape[1]
    if num_heads % 2 or num_key_heads % 2:  # the halves would share a key head
        repeats = num_heads // num_key_heads
        key_BHTD, value_BHTD = key_BHTD.repeat_interleave(repeats, 1), value_BHTD.repeat_interleave(repeats, 1)
    parts = zip(*(_halves(tensor) for tensor in (query_BHTD, key_BHTD, value_BHTD)), strict=True)
    outputs = []
    for (query, key, value), shift in zip(parts, (0, group_tokens // 2), strict=True):
        bounds = grouped(document_bounds, group_tokens, shift)
        output, _ = document_attention(
            module, query, key, value, attention_mask, document_bounds=bounds, **options
        )  # (B, T, H / 2, D)
        outputs.append(output)
    return torch.cat(outputs, dim=2), None


def _halves(tensor_BHTD: Tensor) -> tuple[Tensor, Tensor]:
    """The first H // 2 heads and the others."""
    half = tensor_BHTD.shape[1] // 2
    return tensor_BHTD[:, :half], tensor_BHTD[:, half:]


def grouped(documents: Sequence[Document], group_tokens: int, shift: int) -> tuple[Document, ...]:
    """The (start, end) of each group of each document: borders at `shift`, then every `group_tokens`.

    Args:
        documents: (start, end) of each.
    """
    groups: list[Document] = []
    for document in documents:
        assert len(document) == 2, "stages with branching documents are refused when the attention is registered"
        groups += pairwise([*_group_starts(*document, group_tokens, shift), document[1]])
    return tuple(groups)


def _group_starts(start: int, end: int, group_tokens: int, shift: int) -> list[int]:
    first = start + (shift or group_tokens)
    return [start, *range(first, end, group_tokens)]


def register_shifted_attention(cutoff_len: int, model_type: str, stage: str = "sft") -> str:
    """Make the attention for groups of a quarter of `cutoff_len` a choice of `attn_implementation`; returns its name.

    Raises: ConfigError when the model type, the stage or the length does not suit it.
    """
    if stage not in ("pt", "sft"):
        raise ConfigError(
            f"`shift_attn: true` does not fit stage {stage}",
            why="it is for long plain texts; here several answers share one prompt",
            fix="remove shift_attn",
        )
    if model_type not in SUPPORTED:
        raise ConfigError(
            f"`shift_attn: true` does not fit a model of type {model_type}",
            why="its layers do not all attend to the whole text",
            fix=f"remove shift_attn; it works with {', '.join(SUPPORTED)}",
        )
    group_tokens = cutoff_len // GROUP_SHARE
    if group_tokens < 2:
        raise ConfigError(
            f"`shift_attn: true` needs groups of at least 2 tokens; cutoff_len {cutoff_len} gives {group_tokens}",
            fix="raise cutoff_len, or remove shift_attn, which is for long texts",
        )
    name = f"tunesmith_shifted_{group_tokens}"
    AttentionInterface.register(name, partial(shifted_attention, group_tokens=group_tokens))
    AttentionMaskInterface.register(name, no_mask)
    return name
