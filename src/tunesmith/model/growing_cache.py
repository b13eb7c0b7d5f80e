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

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = 0 if self._buffers is None else self.keys.shape[2]
        end = start + key_states.shape[2]
        if self._buffers is None or end > self._buffers[0].shape[2]:
            self._buffers = tuple(  # type: ignore[assignment]
                _with_room(states, None if start == 0 else held, start, end)
                for states, held in ((key_states, self.keys), (value_states, self.values))
            )
        assert self._buffers is not None
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; one may come several times."""
        if self._buffers is not None:
            length = self.keys.shape[2]
            self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
            self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def _with_room(states: Tensor, held: Tensor | None, start: int, end: int) -> Tensor:
    """A buffer of twice the tokens with what is held already."""
    batch, heads, _, width = states.shape
    buffer = states.new_empty(batch, heads, max(2 * start, end + SPARE_TOKENS), width)
    if held is not None:
        buffer[:, :, :start] = held
    return buffer


def growing_cache(model: Any) -> DynamicCache:
    """An empty cache for a model, with layers that grow in place wherever the model's own layers only grow."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
