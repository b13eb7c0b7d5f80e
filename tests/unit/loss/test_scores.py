"""Chunked log-probabilities against the plain formula, values and gradients, in double precision."""

from __future__ import annotations

import pytest
import torch

from tunesmith.loss.scores import LogitTransform, TokenScores, head_log_prob
from tunesmith.loss.token import cross_entropy

TRANSFORMS = [LogitTransform(), LogitTransform(scale=0.25), LogitTransform(softcap=3.0), LogitTransform(2.0, 5.0)]


def _plain(hidden, weight, targets, bias, transform):
    logits = (hidden @ weight.T + (0 if bias is None else bias)) * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("head_trains", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("num_tokens", [0, 1, 11])
def test_values_and_gradients_equal_the_plain_formula(
    transform: LogitTransform, head_trains: bool, with_bias: bool, num_tokens: int
) -> None:
    """7 tokens of vocabulary, chunks of 3: the last chunk is short, and none for no tokens."""
    torch.manual_seed(0)
    hidden = torch.randn(num_tokens, 5, requires_grad=True)
    weight = torch.randn(7, 5, requires_grad=head_trains)
    bias = torch.randn(7, requires_grad=head_trains) if with_bias else None
    targets = torch.randint(0, 7, (num_tokens,))
    upstream = torch.randn(num_tokens)
    inputs = [t for t in (hidden, weight, bias) if t is not None and t.requires_grad]

    logp, correct = head_log_prob(hidden, weight, targets, bias_V=bias, transform=transform, chunk_tokens=3)
    expected = _plain(hidden, weight, targets, bias, transform)
    # fp32 sums of 7 terms: a few units in the last place
    torch.testing.assert_close(logp, expected, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad((logp * upstream).sum(), inputs)
    theirs = torch.autograd.grad((expected * upstream).sum(), inputs)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)
    assert correct.shape == (num_tokens,)


def test_the_arg_max_is_reported() -> None:
    weight = torch.eye(3)
    _, correct = head_log_prob(torch.tensor([[9.0, 0, 0], [0, 9.0, 0]]), weight, torch.tensor([0, 2]))
    assert correct.tolist() == [True, False]


def test_tied_embeddings_sum_both_gradients() -> None:
    torch.manual_seed(1)
    weight = torch.randn(7, 5, requires_grad=True)
    tokens, targets = torch.tensor([1, 3, 3]), torch.tensor([2, 0, 6])
    ours = torch.autograd.grad(head_log_prob(weight[tokens], weight, targets)[0].sum(), weight)[0]
    theirs = torch.autograd.grad(_plain(weight[tokens], weight, targets, None, LogitTransform()).sum(), weight)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_bf16_is_as_close_to_fp32_as_plain_bf16_is() -> None:
    torch.manual_seed(2)
    hidden, weight, targets = torch.randn(64, 96), torch.randn(500, 96), torch.randint(0, 500, (64,))
    gold = _plain(hidden, weight, targets, None, LogitTransform())
    ours = head_log_prob(hidden.bfloat16(), weight.bfloat16(), targets)[0]
    plain = _plain(hidden.bfloat16(), weight.bfloat16(), targets, None, LogitTransform()).float()
    assert (ours - gold).abs().mean() <= 1.2 * (plain - gold).abs().mean()


def test_cross_entropy_is_a_sum_and_its_weight() -> None:
    """By hand: -(-1 * 1 - 2 * 0.5) = 2 nats over a weight of 1.5; two of the weights are right in one of two."""
    scores = TokenScores(
        torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.5]), torch.tensor([0, 1]), 2, torch.tensor([True, False])
    )
    out = cross_entropy(scores)
    assert float(out.loss_sum) == 2.0
    assert float(out.weight) == 1.5
    assert [float(x) for x in out.metrics["accuracy"]] == [1.0, 1.5]
