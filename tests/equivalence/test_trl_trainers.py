"""Twenty steps of pt, sft, gkd, dpo, kto and rm are those of trainers of transformers and TRL, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.oracles import ALL_CHECKS, token_runs, trl_calls
from tests.oracles.table import first_cells
from tests.oracles.trajectories import PREFIX, TOLERANCE, TRAJECTORIES, furthest, series

PAGE = Path(__file__).parents[2] / "docs" / "numerics.md"


@pytest.mark.parametrize("name", [name for name in ALL_CHECKS if name.startswith(PREFIX)])
def test_a_stage_takes_the_steps_of_its_trainer(name: str) -> None:
    try:
        row = ALL_CHECKS[name]()
    except trl_calls.OracleMissing as missing:
        pytest.skip(str(missing))
    assert row.value <= TOLERANCE
    assert row.gradient <= TOLERANCE
    assert first_cells(row) in PAGE.read_text(encoding="utf-8"), (
        "run `python -m tests.oracles --write docs/numerics.md`"
    )


def test_all_trainers_are_there() -> None:
    assert {trajectory.case for trajectory in TRAJECTORIES.values()} == {"dpo", "kto", "rm"}
    assert len(TRAJECTORIES) == 8
    assert {run.case.partition("-")[0] for run in token_runs.RUNS.values()} == {"pt", "sft", "gkd"}
    assert len(token_runs.RUNS) == 7


def test_a_beta_off_by_a_thousandth_is_seen() -> None:
    """Planted."""
    try:
        trl_calls.need(1, 16)
    except trl_calls.OracleMissing as missing:
        pytest.skip(str(missing))
    found = series("dpo sigmoid", pref_beta=0.1001)
    assert furthest(found["grad_norm"]) > 10 * TOLERANCE


def test_a_divergence_of_a_beta_off_by_a_hundredth_is_seen() -> None:
    """Planted."""
    trl_calls.need(1, 16)
    found = token_runs.series("gkd beta 0.5", gkd_beta=0.51)
    assert furthest(found["grad_norm"]) > 10 * TOLERANCE


def test_a_smoothing_off_by_a_thousandth_is_seen() -> None:
    """Planted."""
    trl_calls.need(1, 16)
    found = token_runs.series("sft label smoothing", label_smoothing_factor=0.101)
    assert furthest(found["grad_norm"]) > 10 * TOLERANCE
