"""Every loss against its oracle: values and gradients, in float64 and in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.oracles import ALL_CHECKS, pairs, policies, trajectories, trl_calls
from tests.oracles.table import SEEDS, SINGLE_TOLERANCE, TOLERANCE, Row, check, compare, first_cells, rewrite

from tunesmith.loss.group import GROUP_FORMS
from tunesmith.loss.preference import PREFERENCE_LOSSES

PAGE = Path(__file__).parents[3] / "docs" / "numerics.md"


@pytest.mark.parametrize("name", sorted(name for name in ALL_CHECKS if not name.startswith(trajectories.PREFIX)))
def test_a_loss_is_its_oracle(name: str) -> None:
    try:
        row = ALL_CHECKS[name]()
    except trl_calls.OracleMissing as missing:
        pytest.skip(str(missing))
    assert row.value <= TOLERANCE
    assert row.gradient <= TOLERANCE
    assert row.single is None or row.single <= SINGLE_TOLERANCE
    assert first_cells(row) in PAGE.read_text(encoding="utf-8"), (
        "run `python -m tests.oracles --write docs/numerics.md`"
    )


def test_every_preference_loss_and_group_form_has_an_oracle() -> None:
    checked = {name.split("/")[1].partition(",")[0] for name in ALL_CHECKS if name.startswith("dpo/")}
    assert set(PREFERENCE_LOSSES) <= checked
    assert len(PREFERENCE_LOSSES) == 14
    assert set(GROUP_FORMS) == {
        name.split("/")[1] for name in ALL_CHECKS if name.startswith("grpo/") and "clip" in name
    }


def test_a_loss_that_is_wrong_by_a_thousandth_is_seen() -> None:
    """Planted: beta off by 0.1 %."""

    def smoothed(beta: float) -> Callable[..., torch.Tensor]:
        return lambda c, r: trl_calls.smoothed_sigmoid(c, r, beta=beta, label_smoothing=0.2)

    def draw(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        return tuple(torch.randn(2, 5, generator=generator).double().unbind())

    row = compare("x", "y", smoothed(0.3), smoothed(0.3 * 1.001), draw)
    assert row.value > 10 * TOLERANCE
    assert row.gradient > 10 * TOLERANCE


def test_a_wrong_gradient_under_a_right_value_is_seen() -> None:
    """Planted: the same numbers, cut off from the graph in half of the elements."""

    def draw(generator: torch.Generator) -> tuple[torch.Tensor]:
        return (torch.randn(6, generator=generator).double(),)

    def half_detached(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:3].square(), x[3:].detach().square()])

    row = compare("x", "y", half_detached, torch.square, draw)
    assert row.value == 0.0
    assert row.gradient > 0.1


def test_a_loss_that_exchanges_two_elements_is_seen() -> None:
    def draw(generator: torch.Generator) -> tuple[torch.Tensor]:
        return (torch.randn(6, generator=generator).double(),)

    assert compare("x", "y", lambda x: x.flip(0), lambda x: x * 1.0, draw).gradient > 0.01


def test_the_cases_are_not_harmless() -> None:
    """Among the drawn tokens some ratios are clipped on either side; an answer is empty, a pair's answers are equal."""
    clipped_above = clipped_below = 0
    for seed in SEEDS:
        logp, old, _, mask, _, advantage_S = policies.draw_answers(torch.Generator().manual_seed(seed))
        ratio, gain, kept = (logp - old).exp(), advantage_S[:, None], mask.bool()
        clipped_above += int(((ratio > 1.2) & (gain > 0) & kept).sum())
        clipped_below += int(((ratio < 0.8) & (gain < 0) & kept).sum())
        assert not mask[0].any()
        given = pairs.as_pairs(*pairs.draw_pairs(torch.Generator().manual_seed(seed)))
        assert given.chosen_logp_P[1] == given.rejected_logp_P[1]
    assert min(clipped_above, clipped_below) >= 5


def test_a_name_is_given_once_and_a_page_needs_its_marks() -> None:
    with pytest.raises(ValueError, match="exists already"):
        check("dpo/sigmoid", lambda: Row("a", "b", 0, 0))
    with pytest.raises(ValueError, match="oracle table: start"):
        rewrite("a page without marks", [])


def test_a_trl_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_calls, "version", lambda name: "1.14.2")
    with pytest.raises(trl_calls.OracleMissing, match=r"needs TRL 1\.16 or newer, 1\.14\.2 is installed"):
        ALL_CHECKS["dpo/sigmoid"]()
