"""Stage grpo beside TRL's GRPOTrainer: that the comparison covers every form, and would notice a small mistake.

The comparisons themselves are rows of the oracle table; `test_trl_trainers.py` holds them.
"""

from __future__ import annotations

import pytest
from tests.oracles import ALL_CHECKS, trl_calls
from tests.oracles.group_runs import RUNS, furthest, series
from tests.oracles.trajectories import PREFIX, TOLERANCE

from tunesmith.loss.group import GROUP_FORMS


def test_every_form_and_several_updates_from_the_same_answers_are_compared() -> None:
    assert {name.partition(",")[0] for name in RUNS} == set(GROUP_FORMS)
    assert sum(run.iterations > 1 for run in RUNS.values()) == 3
    assert sum(name.startswith(f"{PREFIX}grpo") for name in ALL_CHECKS) == len(RUNS) == 5


def test_an_upper_clip_off_by_a_little_is_seen() -> None:
    """Planted."""
    try:
        found = series("dapo, temperature 0.7, two updates", grpo_epsilon_high=0.25)
    except trl_calls.OracleMissing as missing:
        pytest.skip(str(missing))
    assert furthest(found["reward"]) <= TOLERANCE
    assert furthest(found["grad_norm"]) > 10 * TOLERANCE
