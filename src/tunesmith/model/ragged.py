"""Many sequences in one forward pass, each at its own place: what answering many requests at once is built on.

The pass is one flat row of a fixed number of tokens, `width`. It holds pieces: some tokens of a sequence that continue
what the sequence's own cache holds (a part of a prompt, or the one token that was just chosen); the rest is padding.
Attention runs once per piece, over that sequence's keys and values alone. So a sequence needs no padding to the length
of others and can come and go at any time.

Why the width is fixed: matrix products round differently for different numbers of rows. With one width for reading
prompts and one for answering, and prompts cut at fixed positions, every number that a sequence sees is a function of
the sequence alone: its answer is the same to the bit alone and in any company. (Mixtures of experts are the exception:
how many rows an expert gets depends on the company.) See docs/decisions/0018. References: He et al., "Defeating
Nondeterminism in LLM Inference", 2025; Yu et al., "Orca: iteration-level scheduling", OSDI 2022.

It plugs in through transformers' attention registry, as `model/attention.py` does for training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache

from tunesmith.errors import ModelError
from tunesmith.model.attention import no_mask, softcapped, visible_keys

RAGGED_ATTENTION = "tunesmith_ragged"
PLAIN_LAYERS = frozenset({"full_attention", "sliding_attention"})
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
"""Kinds of rotary positions that change with the longest text of the pass: with company, in other words."""
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2}
"""Largest logit difference to the model's own attention, as a share of the largest logit, that is rounding."""


class SequenceCache:
    """Keys and values of one sequence in all layers: a buffer (L, 2, H, room, D) that doubles when it is full.

    Args:
        num_layers: L.
    """

    def __init__(self, num_layers: int) -> None:
        self.length = 0
        self._num_layers = num_layers
        self._buffer: Tensor | None = None
        self._room = 0

    def reserve(self, num_tokens: int) -> None:
        """Make room for this many tokens in all."""
        if num_tokens <= self._room:
            return
        self._room = max(num_tokens, 2 * self._room)
        if self._buffer is not None:
            old, (layers, two, heads, _, width) = self._buffer, self._buffer.shape
            self._buffer = old.new_empty(layers, two, heads, self._room, width)
            self._buffer[:, :, :, : self.length] = old[:, :, :, : self.length]

    def write(self, layer: int, states_2HTD: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Put keys and values of one layer at `start`; returns all of the layer's up to their end, (1, H, T, D)."""
        heads, num_tokens, width = states_2HTD.shape[1:]
        if self._buffer is None:
            self._buffer = states_2HTD.new_empty(self._num_layers, 2, heads, self._room, width)
        end = start + num_tokens
        own = self._buffer[layer]
        own[:, :, start:end] = states_2HTD
        return own[0:1, :, :end], own[1:2, :, :end]

    def block(self, start: int, end: int) -> Tensor:
        """A copy (L, 2, H, end - start, D) of some tokens' keys and values."""
        assert self._buffer is not None, "a block is taken of what was written"
        return self._buffer[:, :, :, start:end].clone()

    def restore(self, block: Tensor, start: int) -> None:
        """Put a copied block back, at `start`."""
        end = start + block.shape[3]
        self.reserve(end)
        if self._buffer is None:
            self._buffer = block.new_empty(*block.shape[:3], self._room, block.shape[4])
        self._buffer[:, :, :, start:end] = block
        self.length = end


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `ids` that continue a sequence at position `start`; what comes before them is in `cache`."""

    cache: SequenceCache
    ids: Sequence[int]
    start: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the pieces of a pass stand in its flat row: (first token, end) of each, and `width` tokens in all."""

    pieces: tuple[Piece, ...]
    bounds: tuple[tuple[int, int], ...]
    width: int


def lay_out(pieces: Sequence[Piece], width: int) -> Layout:
    """Pieces end to end. They must fit."""
    bounds, end = [], 0
    for piece in pieces:
        bounds.append((end, end + len(piece.ids)))
        end += len(piece.ids)
    assert end <= width, f"{end} tokens do not fit a pass of {width}"
    return Layout(tuple(pieces), tuple(bounds), width)


@torch.inference_mode()
def run_pieces(model: Any, layout: Layout, wanted: Sequence[int], num_rows: int) -> Tensor:
    """One pass; the caches grow by their pieces.

    Args:
        model: a causal language model with `use_ragged_attention` done; PEFT may be around it.
        wanted: rows of the flat row whose logits are asked for.
        num_rows: so many rows go through the head, whatever is wanted: the fixed number of its product.

    Returns:
        (len(wanted), V) logits in the model's dtype.
    """
    rows = torch.tensor([*wanted, *[0] * (num_rows - len(wanted))], device=next(model.parameters()).device)
    output = model(**_inputs(model, layout), logits_to_keep=rows)
    for piece in layout.pieces:
        piece.cache.length = piece.start + len(piece.ids)
    logits: Tensor = output.logits[0, : len(wanted)]
    return logits


@torch.inference_mode()
def run_hidden(model: Any, layout: Layout) -> Tensor:
    """As `run_pieces`, but returns what goes into the head: the last hidden states (T, D) of the pieces' tokens."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    output = base.get_decoder()(**_inputs(model, layout))
    for piece in layout.pieces:
        piece.cache.length = piece.start + len(piece.ids)
    hidden: Tensor = output.last_hidden_state[0, : layout.bounds[-1][1]]
    return hidden


def _inputs(model: Any, layout: Layout) -> dict[str, Any]:
    """What the model's forward is given for a pass; the caches get room for it."""
    device = next(model.parameters()).device
    ids, positions = [0] * layout.width, [0] * layout.width
    for piece, (begin, end) in zip(layout.pieces, layout.bounds, strict=True):
        ids[begin:end] = piece.ids
        positions[begin:end] = range(piece.start, piece.start + end - begin)
        piece.cache.reserve(piece.start + end - begin)
    return {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.tensor([positions], device=device),
        "use_cache": False,
        "return_dict": True,
        "ragged": layout,
    }


def ragged_attention(
    module: Any,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    ragged: Layout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each piece to its own sequence. B = 1; returns (B, T, H, D) and no weights.

    Raises: ModelError for a model that hands no layout down, or has attention sinks.
    """
    if ragged is None or s_aux is not None:
        raise ModelError(f"{type(module).__name__} cannot attend to ragged rows")
    states_2HTD = torch.stack((key_BHTD[0].to(value_BHTD.dtype), value_BHTD[0]))
    query_BHTD = query_BHTD.to(value_BHTD.dtype)
    outputs = []
    for piece, (begin, end) in zip(ragged.pieces, ragged.bounds, strict=True):
        keys, values = piece.cache.write(module.layer_idx, states_2HTD[:, :, begin:end], piece.start)
        outputs.append(_attend(query_BHTD[:, :, begin:end], keys, values, scaling, sliding_window, softcap))
    filled = ragged.bounds[-1][1]
    if filled < ragged.width:
        outputs.append(outputs[0].new_zeros(*query_BHTD.shape[:2], ragged.width - filled, value_BHTD.shape[-1]))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, window: int | None, softcap: float | None
) -> Tensor:
    """The last tokens of a sequence (the queries) to all of it; (1, H, T, D)."""
    num_queries, num_keys = query.shape[2], keys.shape[2]
    if window is not None and num_keys > window + num_queries - 1:  # nobody looks further back
        first = num_keys - (window + num_queries - 1)
        keys, values, num_keys = keys[:, :, first:], values[:, :, first:], num_keys - first
    is_windowed = window is not None and num_keys > window
    mask = None
    if num_queries > 1 and (num_queries < num_keys or is_windowed):
        mask = visible_keys(num_queries, num_keys, window if is_windowed else None, query.device)
    if softcap is not None:
        return softcapped(query, keys, values, mask, scaling, 0.0, softcap)
    return F.scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None and num_queries > 1,
        scale=scaling,
        enable_gqa=keys.shape[1] != query.shape[1],
    )


def use_ragged_attention(base: Any) -> None:
    """Switch a transformers model (without PEFT around it) to ragged rows."""
    AttentionInterface.register(RAGGED_ATTENTION, ragged_attention)
    AttentionMaskInterface.register(RAGGED_ATTENTION, no_mask)
    base.set_attn_implementation(RAGGED_ATTENTION)


def num_layers_of(config: Any) -> int:
    """Layers that keep keys and values."""
    return int(config.get_text_config().num_hidden_layers)


def ragged_problem(base: Any) -> str:
    """Why a transformers model cannot be given ragged rows; empty when it can, and then it is switched to them.

    What the configuration says is looked at first; then a few tokens go both ways, as one row through the model's own
    attention and in pieces, and the logits must agree. The model keeps its own attention when they do not.
    """
    config = base.config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - PLAIN_LAYERS
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type")
    if kinds or rope in LENGTH_DEPENDENT_ROPE:
        return f"its layers or positions are {', '.join(sorted(kinds)) or rope}"
    own = config._attn_implementation
    try:
        theirs_TV = _own_logits(base)
        use_ragged_attention(base)
        ours_TV = _ragged_logits(base)
    except (ModelError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        base.set_attn_implementation(own)
        return f"it does not take them: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    difference = float((ours_TV - theirs_TV).abs().max() / theirs_TV.abs().max())
    if not difference <= PROBE_TOLERANCE[next(base.parameters()).dtype]:
        base.set_attn_implementation(own)
        return f"its logits would differ by {difference:.2g} of the largest one"
    return ""


_PROBE = tuple(range(5, 29))
_PROBE_CUTS = ((0, 16), (16, 23), (23, 24))


@torch.inference_mode()
def _own_logits(base: Any) -> Tensor:
    """(T, V) of the probe, through the model's own attention and cache."""
    ids = torch.tensor([_PROBE], device=base.device)
    output = base(input_ids=ids, past_key_values=DynamicCache(config=base.config), use_cache=True, return_dict=True)
    logits: Tensor = output.logits[0].float()
    return logits


def _ragged_logits(base: Any) -> Tensor:
    """(T, V) of the probe, in pieces, with a second sequence in the row."""
    cache, company = SequenceCache(num_layers_of(base.config)), SequenceCache(num_layers_of(base.config))
    found = []
    for begin, end in _PROBE_CUTS:
        other = Piece(company, _PROBE[begin:end][::-1], begin)
        layout = lay_out([other, Piece(cache, _PROBE[begin:end], begin)], 40)
        first = layout.bounds[1][0]
        found.append(run_pieces(base, layout, range(first, first + end - begin), end - begin).float())
    return torch.cat(found)
