"""The balance loss is transformers' on one batch, and its parts add up to that of the whole batch exactly."""

from __future__ import annotations

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tunesmith.loss.balance import ExpertLoad, expert_load, router_balance_loss

NUM_EXPERTS, TOP_K, NUM_TOKENS, NUM_LAYERS = 6, 2, 40, 3


def _logits() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(NUM_TOKENS, NUM_EXPERTS, generator=generator) + torch.arange(NUM_EXPERTS) / 3).requires_grad_()
        for _ in range(NUM_LAYERS)
    ]


@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_are_those_of_transformers(masked: bool) -> None:
    logits = _logits()
    weights = (torch.arange(NUM_TOKENS) % 4 != 0).float() if masked else None
    mine = router_balance_loss(logits, NUM_EXPERTS, TOP_K, weights)
    theirs = load_balancing_loss_func(tuple(logits), NUM_EXPERTS, TOP_K, None if weights is None else weights[None])
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    for one, other in zip(torch.autograd.grad(mine, logits), torch.autograd.grad(theirs, logits), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("cuts", [[40], [10, 30], [1, 9, 10, 20]])
def test_parts_with_the_load_of_the_whole_add_up_to_the_whole(cuts: list[int]) -> None:
    logits = _logits()
    whole = router_balance_loss(logits, NUM_EXPERTS, TOP_K)
    parts = list(zip(*(layer.split(cuts) for layer in logits), strict=True))
    loads = [expert_load(part, TOP_K) for part in parts]
    load = loads[0]
    for other in loads[1:]:
        load = load + other
    added = sum(router_balance_loss(part, NUM_EXPERTS, TOP_K, None, load) for part in parts)
    torch.testing.assert_close(added, whole, rtol=1e-6, atol=1e-6)
    gradients = torch.autograd.grad(added, logits)
    for one, other in zip(gradients, torch.autograd.grad(whole, logits), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_the_mean_of_the_parts_own_losses_is_another_number() -> None:
    """Why the counts are taken first: this is what adding up micro-batches would give."""
    logits = _logits()
    halves = list(zip(*(layer.split(20) for layer in logits), strict=True))
    mean = sum(router_balance_loss(half, NUM_EXPERTS, TOP_K) for half in halves) / 2
    assert abs(float(mean - router_balance_loss(logits, NUM_EXPERTS, TOP_K))) > 1e-3


def test_even_load_costs_k_and_one_sided_load_as_much_more() -> None:
    tokens = torch.arange(NUM_EXPERTS)
    even = torch.nn.functional.one_hot(tokens, NUM_EXPERTS) * 50.0 + torch.nn.functional.one_hot(
        (tokens + 1) % NUM_EXPERTS, NUM_EXPERTS
    ) * 50.0  # each token halves between two experts  # fmt: skip
    assert float(router_balance_loss([even], NUM_EXPERTS, TOP_K)) == pytest.approx(TOP_K)
    one_sided = torch.tensor([[50.0, 50.0, 0, 0, 0, 0]]).repeat(8, 1)
    assert float(router_balance_loss([one_sided], NUM_EXPERTS, TOP_K)) == pytest.approx(NUM_EXPERTS)


def test_padding_counts_for_nothing() -> None:
    logits = _logits()
    weights = torch.zeros(NUM_TOKENS)
    weights[:7] = 1
    load = expert_load(logits, TOP_K, weights)
    short = expert_load([layer[:7] for layer in logits], TOP_K)
    assert (load.num_tokens, load.assigned_E.tolist()) == (short.num_tokens, short.assigned_E.tolist())
    assert load.num_tokens == 7 * NUM_LAYERS
    assert load.nothing().num_tokens == 0
    assert isinstance(load + load.nothing(), ExpertLoad)
