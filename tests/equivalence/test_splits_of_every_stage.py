"""For every stage one trajectory, however a batch is cut: 8x1 = 4x2 = 1x8, large and small micro-batches, two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.stages import CASES, write_stage_project
from tests.training import arguments, history, largest_difference, run_training, weights
from tests.two_ranks import train_on_two_ranks

SETTINGS: dict[str, Any] = {"num_train_epochs": 2, "lr_scheduler_type": "linear", "optim": "adamw_torch"}
WHOLE = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module", params=list(CASES))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The project of a stage, trained in whole batches, and its settings."""
    project, settings = write_stage_project(tmp_path_factory.mktemp("stage"), request.param)
    settings = {**SETTINGS, **settings}
    run_training(project, "whole", **{**settings, **WHOLE})
    return project, settings


def _assert_same(run: Path, reference: Path) -> None:
    assert largest_difference(history(run, "loss"), history(reference, "loss")) < 2e-5
    assert largest_difference(history(run, "grad_norm"), history(reference, "grad_norm")) < 1e-4
    ours, theirs = weights(run), weights(reference)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < 1e-4


@pytest.mark.parametrize(
    "layout",
    [
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "micro_batch_tokens": 1},
    ],
    ids=["4x2", "1x8, each example in a row of its own"],
)
def test_the_cut_of_a_batch_changes_nothing(whole: tuple[Path, dict[str, Any]], layout: dict[str, Any]) -> None:
    project, settings = whole
    output = f"cut{layout['per_device_train_batch_size']}"
    _assert_same(run_training(project, output, **{**settings, **layout}), project / "whole")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project of each case, trained on two ranks."""
    folder, runs = tmp_path_factory.mktemp("ranks"), []
    layout = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "use_cpu": True}
    for case in CASES:
        project, settings = write_stage_project(folder / case, case)
        runs.append(arguments(project, "two", **{**SETTINGS, **settings, **layout}))
    train_on_two_ranks(runs, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_take_the_same_steps_as_one(case: str, two_ranks: Path, tmp_path: Path) -> None:
    project, settings = write_stage_project(tmp_path, case)
    run_training(project, "whole", **{**SETTINGS, **settings, **WHOLE})
    _assert_same(two_ranks / case / "two", project / "whole")
