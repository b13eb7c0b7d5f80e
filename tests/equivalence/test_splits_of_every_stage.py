"""For every stage one trajectory, however a batch is cut: 8x1 = 4x2 = 1x8, large and small micro-batches, two ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.stages import CASES, write_stage_project
from tests.training import arguments, history, largest_difference, run_training, weights

SETTINGS: dict[str, Any] = {"num_train_epochs": 2, "lr_scheduler_type": "linear", "optim": "adamw_torch"}
WHOLE = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module", params=list(CASES))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The project of a stage, trained in whole batches, and its settings."""
    project, settings = write_stage_project(tmp_path_factory.mktemp("stage"), request.param)
    settings = {**SETTINGS, **settings}
    run_training(project, "whole", **{**settings, **WHOLE})
    return project, settings


def _assert_same(project: Path, output: str) -> None:
    run, reference = project / output, project / "whole"
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
    run_training(project, output, **{**settings, **layout})
    _assert_same(project, output)


@pytest.mark.slow
def test_two_ranks_take_the_same_steps_as_one(whole: tuple[Path, dict[str, Any]]) -> None:
    project, settings = whole
    layout = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "use_cpu": True}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d"),
        *("--rdzv-endpoint=127.0.0.1:0", "-m", "tunesmith", "train"),
        *arguments(project, "two", **{**settings, **layout}),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    _assert_same(project, "two")
