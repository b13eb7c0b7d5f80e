"""Stage grpo in each of its forms takes the very updates of TRL's GRPOTrainer, given the same answers."""

from __future__ import annotations

import pytest
from tests.oracles import group_runs, trl_calls
from tests.oracles.group_runs import RUNS, SMALLEST_LOSS, furthest, series

from tunesmith.loss.group import GROUP_FORMS

# fp32: padded rows and shared prompts sum in another order, and twenty AdamW steps carry that on
TOLERANCE = 1e-5


@pytest.mark.parametrize("name", list(RUNS))
def test_twenty_updates_equal_those_of_the_trainer(name: str) -> None:
    try:
        found = series(name)
    except trl_calls.OracleMissing as missing:
        pytest.skip(str(missing))
    assert furthest(found["loss"], SMALLEST_LOSS) <= TOLERANCE
    assert furthest(found["grad_norm"]) <= TOLERANCE
    assert furthest(found["reward"]) <= TOLERANCE


def test_every_form_and_several_updates_from_the_same_answers_are_there() -> None:
    assert {name.partition(",")[0] for name in RUNS} == set(GROUP_FORMS)
    assert sum(run.iterations > 1 for run in RUNS.values()) == 3


def test_an_upper_clip_off_by_a_little_is_seen() -> None:
    """Planted."""
    try:
        found = series("dapo, temperature 0.7, two updates", grpo_epsilon_high=0.25)
    except trl_calls.OracleMissing as missing:
        pytest.skip(str(missing))
    assert furthest(found["grad_norm"]) > 10 * TOLERANCE
    assert group_runs.NUM_UPDATES == 20
