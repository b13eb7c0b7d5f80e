"""The choice of the next token: filters, penalty, greedy, seeds."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tunesmith.errors import ConfigError
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.sampling import NUCLEUS_TOKENS, choose_token, draw, keep_top_k, keep_top_p, penalize_repetition

LOGITS = torch.tensor([1.0, 4.0, 3.0, 2.0])
NOTHING_SEEN = torch.tensor([], dtype=torch.long)


def draws(params: SamplingParams, num_draws: int = 400, seed: int = 0) -> Counter[int]:
    generator = torch.Generator().manual_seed(seed)
    return Counter(choose_token(LOGITS, NOTHING_SEEN, params, generator) for _ in range(num_draws))


@pytest.mark.parametrize("params", [SamplingParams(do_sample=False), SamplingParams(temperature=0.0)])
def test_without_sampling_or_at_temperature_0_the_best_token_is_taken(params: SamplingParams) -> None:
    assert draws(params, 20) == {1: 20}


def test_top_k_keeps_exactly_the_k_best() -> None:
    assert keep_top_k(LOGITS, 2).isfinite().tolist() == [False, True, True, False]
    assert keep_top_k(LOGITS, 0).isfinite().all()
    assert set(draws(SamplingParams(top_k=2, top_p=1.0))) == {1, 2}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    probs = torch.tensor([0.1, 0.5, 0.3, 0.1])
    assert (keep_top_p(probs, 0.5) > 0).tolist() == [False, True, False, False]
    assert (keep_top_p(probs, 0.51) > 0).tolist() == [False, True, True, False]
    assert (keep_top_p(probs, 1.0) > 0).all()
    assert (keep_top_p(probs, 1e-9) > 0).tolist() == [False, True, False, False]  # the best token always stays


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    params = SamplingParams(temperature=2.0, top_k=0, top_p=1.0)
    counts = draws(params, 4000)
    expected = (LOGITS / 2.0).softmax(-1)
    # four standard deviations of a share at 4000 draws: 4 * sqrt(0.25 / 4000) = 0.032
    assert all(abs(counts[token] / 4000 - expected[token]) < 0.032 for token in range(4))


def test_the_seed_decides_the_draws() -> None:
    params = SamplingParams(top_k=0, top_p=1.0)
    assert draws(params, 50, seed=1) == draws(params, 50, seed=1)
    assert draws(params, 50, seed=1) != draws(params, 50, seed=2)


def test_repetition_penalty_equals_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.tensor([2.0, -1.0, 0.5, 3.0])
    seen = torch.tensor([0, 1, 1])
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(seen[None], logits[None].clone())[0]
    assert torch.equal(penalize_repetition(logits, seen, 1.3), theirs)
    assert torch.equal(penalize_repetition(logits, seen, 1.0), logits)


def test_filters_equal_those_of_transformers() -> None:
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        logits = torch.randn(50, generator=generator) * 3
        theirs_k = TopKLogitsWarper(7)(NOTHING_SEEN[None], logits[None])[0]
        assert torch.equal(keep_top_k(logits, 7), theirs_k)
        theirs_p = TopPLogitsWarper(0.8)(NOTHING_SEEN[None], logits[None])[0]
        assert torch.equal(keep_top_p(logits.softmax(-1), 0.8) > 0, theirs_p.isfinite())


@pytest.mark.parametrize("scale", [0.1, 4.0], ids=["flat", "peaked"])
def test_top_p_over_a_large_vocabulary_looks_at_as_many_tokens_as_it_must(scale: float) -> None:
    """Flat: the nucleus is larger than the tokens that are looked at first."""
    from transformers import TopPLogitsWarper

    logits = torch.randn(3, 5 * NUCLEUS_TOKENS, generator=torch.Generator().manual_seed(0)) * scale
    kept = keep_top_p(logits.softmax(-1), 0.9)
    theirs = TopPLogitsWarper(0.9)(NOTHING_SEEN[None], logits).softmax(-1)
    assert (kept > 0).sum(-1).tolist() == pytest.approx((theirs > 0).sum(-1).tolist(), abs=1)  # ends on a rounding
    torch.testing.assert_close(kept / kept.sum(-1, keepdim=True), theirs, atol=1e-6, rtol=1e-3)
    assert (int((kept > 0).sum(-1).max()) > NUCLEUS_TOKENS) == (scale == 0.1)


def test_a_token_without_probability_is_never_drawn_even_at_the_ends_of_the_draw(monkeypatch) -> None:
    probs = torch.tensor([[0.0, 0.2, 0.0, 0.1, 0.0]])
    generator = torch.Generator().manual_seed(0)
    assert {draw(probs, [generator])[0] for _ in range(200)} == {1, 3}
    for share, token in ((0.0, 1), (0.66, 1), (0.67, 3), (1 - 2**-53, 3)):
        monkeypatch.setattr(torch, "rand", lambda *_, share=share, **__: torch.tensor(share, dtype=torch.float64))
        assert draw(probs, [generator]) == [token]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", -1),
    ],
)
def test_a_setting_out_of_bounds_is_named(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        SamplingParams(**{key: value})
