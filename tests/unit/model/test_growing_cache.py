"""The cache that grows in place holds what transformers' own holds, step by step and row by row."""

from __future__ import annotations

import torch
from transformers import DynamicCache, LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicSlidingWindowLayer

from tunesmith.model.growing_cache import SPARE_TOKENS, GrowingLayer, growing_cache


def test_it_holds_the_same_keys_and_values_through_growth_and_selection() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = GrowingLayer(), DynamicCache(config=LlamaConfig(num_hidden_layers=1)).layers[0]
    rows = 3
    for step in range(2 * SPARE_TOKENS):
        num_new = 7 if step == 0 else 1
        keys, values = torch.randn(2, rows, 2, num_new, 4, generator=generator)
        for mine, other in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
            assert torch.equal(mine, other)
        assert ours.get_seq_length() == theirs.get_seq_length() == 7 + step
        if step in (0, 20, 100):
            chosen = torch.tensor({0: [0, 2, 2, 1], 20: [3, 0], 100: [1]}[step])
            ours.batch_select_indices(chosen)
            theirs.batch_select_indices(chosen)
            rows = len(chosen)
            assert torch.equal(ours.keys, theirs.keys)


def test_most_tokens_are_added_without_copying_the_others() -> None:
    layer, buffers = GrowingLayer(), set()
    for _ in range(1000):
        layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
        buffers.add(layer.keys.data_ptr())
    assert len(buffers) <= 6  # 65, 130, 260, 520, 1040 tokens
    assert layer.keys.shape == (1, 1, 1000, 2)


def test_layers_with_a_window_keep_the_librarys_class() -> None:
    plain = type("Model", (), {"config": LlamaConfig(num_hidden_layers=2)})
    windowed = type("Model", (), {"config": MistralConfig(num_hidden_layers=2, sliding_window=8)})
    assert [type(layer) for layer in growing_cache(plain).layers] == [GrowingLayer] * 2
    assert [type(layer) for layer in growing_cache(windowed).layers] == [DynamicSlidingWindowLayer] * 2
