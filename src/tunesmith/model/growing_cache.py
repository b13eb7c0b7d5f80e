"""A key/value cache that grows in place: for long answers of many rows.

transformers' own cache joins old and new keys anew for every token, so that n tokens cost n^2 / 2 copies. Here each
layer keeps a buffer with room and doubles it when it is full; attention sees a view of the filled part. Layers with a
sliding window keep transformers' class: theirs is short.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 64
"""Room that a buffer has at least when it is made."""


class GrowingLayer(DynamicLayer):
    """Keys and values (B, H, T, D) of one layer, as views of buffers with more room."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._length, self._length + key_states.shape[2]
        if self._buffers is None or end > self._buffers[0].shape[2]:
            old_keys, old_values = self._buffers or (None, None)
            self._buffers = _with_room(key_states, old_keys, start), _with_room(value_states, old_values, start)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        return self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; one may come several times."""
        if self._buffers is not None:
            self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
            self._show(self._length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        """Make the first `length` tokens of the buffers the keys and values of the layer."""
        assert self._buffers is not None
        self._length = length
        keys, values = (buffer[:, :, :length] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


def _with_room(states: Tensor, old: Tensor | None, num_old: int) -> Tensor:
    """A buffer like `states` for twice the old tokens, which it holds, and for the new ones."""
    batch, heads, num_new, width = states.shape
    buffer = states.new_empty(batch, heads, max(2 * num_old, num_old + num_new + SPARE_TOKENS), width)
    if old is not None:
        buffer[:, :, :num_old] = old[:, :, :num_old]
    return buffer


def growing_cache(model: Any) -> DynamicCache:
    """An empty cache for a model, with layers that grow in place wherever the model's own layers only grow."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
