"""Shifted sparse attention equals a dense mask written from its definition, per document, and leaks nothing."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from torch import Tensor, nn

from tunesmith.errors import ConfigError
from tunesmith.model.shifted import grouped, register_shifted_attention, shifted_attention

GROUP = 6


def _allowed(length: int, group: int, shift: int) -> Tensor:
    """(T, T): causal, and within one group; token i is in group (i - shift) // group."""
    position = torch.arange(length)
    number = torch.div(position - shift, group, rounding_mode="floor") if shift else position // group
    return (number[:, None] == number[None, :]) & (position[:, None] >= position[None, :])


def _dense(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """(1, T, H, D): softmax over a dense mask, head by head and document by document."""
    heads = query.shape[1]
    repeats = heads // key.shape[1]
    out = torch.zeros_like(query)
    for head in range(heads):
        shift = GROUP // 2 if head >= heads // 2 else 0
        start = 0
        for length in lengths:
            rows = slice(start, start + length)
            q, k, v = query[0, head, rows], key[0, head // repeats, rows], value[0, head // repeats, rows]
            scores = (q @ k.T) * q.shape[-1] ** -0.5
            scores = scores.masked_fill(~_allowed(length, GROUP, shift), float("-inf"))
            out[0, head, rows] = scores.softmax(-1) @ v
            start += length
    return out.transpose(1, 2)


def _tensors(lengths: tuple[int, ...], heads: int, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)

    def random(num_heads: int) -> Tensor:
        return torch.randn(1, num_heads, total, 8, dtype=torch.float64, generator=generator).requires_grad_()

    return random(heads), random(key_heads), random(key_heads)


def _bounds(lengths: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(pairwise(accumulate(lengths, initial=0)))


@pytest.mark.parametrize("lengths", [(24,), (23, 1, 9), (2, 3, 7), (6, 12)])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (9, 3), (4, 1)])
def test_equals_the_dense_mask_in_float64_with_its_gradients(
    lengths: tuple[int, ...], heads: int, key_heads: int
) -> None:
    tensors = _tensors(lengths, heads, key_heads)
    module = nn.Module().train()
    actual, _ = shifted_attention(module, *tensors, None, group_tokens=GROUP, document_bounds=_bounds(lengths))
    expected = _dense(*tensors, lengths)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn(actual.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        torch.autograd.grad((actual * weight).sum(), tensors),
        torch.autograd.grad((expected * weight).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_no_token_sees_a_later_one() -> None:
    """The published shift lets the first half group see the last tokens."""
    query, key, value = _tensors((24,), 4, 4)
    out, _ = shifted_attention(
        nn.Module().train(), query, key, value, None, group_tokens=GROUP, document_bounds=((0, 24),)
    )
    for place in (0, 2, 11):
        (gradient,) = torch.autograd.grad(out[0, place].sum(), value, retain_graph=True)
        assert not gradient[:, :, place + 1 :].any()
        assert gradient[:, :, place].any()


def test_information_passes_from_group_to_group_by_the_shifted_heads_only() -> None:
    query, key, value = _tensors((24,), 4, 4)
    out, _ = shifted_attention(
        nn.Module().train(), query, key, value, None, group_tokens=GROUP, document_bounds=((0, 24),)
    )
    (gradient,) = torch.autograd.grad(out[0, GROUP].sum(), value)
    assert not gradient[0, :2, GROUP - 1].any()
    assert gradient[0, 2:, GROUP - 1].any()


def test_evaluation_has_full_attention() -> None:
    query, key, value = _tensors((24,), 4, 2)
    module = nn.Module().eval()
    out, _ = shifted_attention(module, query, key, value, None, group_tokens=GROUP, document_bounds=((0, 24),))
    (gradient,) = torch.autograd.grad(out[0, 23].sum(), value)
    assert gradient[0, :, 0].any()


def test_a_text_of_half_a_group_has_full_attention_in_every_head() -> None:
    lengths = (3, 2)
    tensors = _tensors(lengths, 4, 2)
    calls = {"group_tokens": GROUP, "document_bounds": _bounds(lengths)}
    trained, _ = shifted_attention(nn.Module().train(), *tensors, None, **calls)
    full, _ = shifted_attention(nn.Module().eval(), *tensors, None, **calls)
    torch.testing.assert_close(trained, full)


def test_groups_begin_anew_in_each_document() -> None:
    assert grouped(((0, 14), (14, 16)), 6, 0) == ((0, 6), (6, 12), (12, 14), (14, 16))
    assert grouped(((0, 14), (14, 16)), 6, 3) == ((0, 3), (3, 9), (9, 14), (14, 16))


@pytest.mark.parametrize("model_type", ["gemma2", "gpt2", "mixtral"])
def test_a_model_type_that_does_not_suit_is_named(model_type: str) -> None:
    with pytest.raises(ConfigError, match=f"type {model_type}"):
        register_shifted_attention(1024, model_type)


def test_a_stage_with_branching_documents_is_named() -> None:
    with pytest.raises(ConfigError, match="does not fit stage dpo"):
        register_shifted_attention(1024, "llama", "dpo")
    assert register_shifted_attention(1024, "llama", "pt") == "tunesmith_shifted_256"


def test_groups_of_one_token_are_refused() -> None:
    with pytest.raises(ConfigError, match="cutoff_len 7 gives 1"):
        register_shifted_attention(7, "llama")
