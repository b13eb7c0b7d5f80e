"""One trajectory however a batch is cut: 8x1 = 4x2 = 1x8, large and small micro-batches, one rank and two.

fp32 sums in another order differ by some 1e-7 relative; a mean of means would differ by percents here, since
the rows' lengths are very unequal.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import arguments, history, largest_difference, run_training, weights, write_project

SETTINGS: dict[str, Any] = {"num_train_epochs": 3, "lr_scheduler_type": "linear", "optim": "adamw_torch"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("splits"), num_rows=26)


@pytest.fixture(scope="module")
def reference(project: Path) -> Path:
    settings = {**SETTINGS, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    return run_training(project, "8x1", **settings)


def _assert_same_trajectory(run: Path, reference: Path) -> None:
    # Adam divides by the root of tiny second moments early on, which amplifies rounding: 1e-5 on losses near 6
    assert largest_difference(history(run, "loss"), history(reference, "loss")) < 1e-5
    assert largest_difference(history(run, "grad_norm"), history(reference, "grad_norm")) < 1e-5
    ours, theirs = weights(run), weights(reference)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < 1e-4


@pytest.mark.parametrize(("rows", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_the_split_into_accumulation_steps_changes_nothing(
    project: Path, reference: Path, rows: int, accumulation: int
) -> None:
    settings = {**SETTINGS, "per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
    _assert_same_trajectory(run_training(project, f"{rows}x{accumulation}", **settings), reference)


@pytest.mark.parametrize("tokens", [1, 200])
def test_the_size_of_micro_batches_changes_nothing(project: Path, reference: Path, tokens: int) -> None:
    """One token per row: every document alone, which is what padded batches of one compute."""
    settings = {**SETTINGS, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    run = run_training(project, f"tokens{tokens}", micro_batch_tokens=tokens, **settings)
    _assert_same_trajectory(run, reference)


def test_gradient_checkpointing_changes_nothing(project: Path, reference: Path) -> None:
    settings = {**SETTINGS, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    _assert_same_trajectory(run_training(project, "ckpt", gradient_checkpointing=True, **settings), reference)


@pytest.mark.slow
@pytest.mark.parametrize("finetuning_type", ["lora", "full"])
def test_two_ranks_take_the_same_steps_as_one(project: Path, finetuning_type: str) -> None:
    single = {**SETTINGS, "finetuning_type": finetuning_type, "per_device_train_batch_size": 8}
    single["gradient_accumulation_steps"] = 1
    alone = run_training(project, f"one-{finetuning_type}", **single)
    double = {**single, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d"),
        *("--rdzv-endpoint=127.0.0.1:0", "-m", "tunesmith", "train"),
        *arguments(project, f"two-{finetuning_type}", use_cpu=True, **double),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    _assert_same_trajectory(project / f"two-{finetuning_type}", alone)


def test_packs_hold_every_example_once_and_train_as_rows_do(project: Path) -> None:
    """With packing a step holds other examples, but an epoch holds each of them exactly once."""
    run = run_training(project, "packs", packing=True, **{**SETTINGS, "num_train_epochs": 1})
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    summary = json.loads((run / "ledger_summary.json").read_text(encoding="utf-8"))
    assert state["num_input_tokens_seen"] == summary["totals"]["train"]["num_tokens"]
    assert state["global_step"] < 7  # 26 rows in steps of 4 would take 7


def test_a_mean_of_means_would_be_noticed(project: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake of many loops, planted: each micro-batch divided by its own weight, then averaged."""
    from tunesmith.loss.token import StepOut, cross_entropy
    from tunesmith.train.stages.sft import SupervisedFineTuning

    def mean_of_means(self: Any, scorer: Any, batch: Any) -> StepOut:
        out = cross_entropy(scorer(batch))
        return StepOut(out.loss_sum / out.weight.clamp(min=1) * 40, out.weight, out.metrics)

    monkeypatch.setattr(SupervisedFineTuning, "step", mean_of_means)
    settings = {**SETTINGS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    run = run_training(project, "planted", micro_batch_tokens=1, **settings)
    assert largest_difference(history(run, "loss"), history(reference, "loss")) > 1e-2


def test_bf16_follows_fp32_closely(project: Path, reference: Path) -> None:
    settings = {**SETTINGS, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    run = run_training(project, "bf16", bf16=True, **settings)
    assert largest_difference(history(run, "loss"), history(reference, "loss")) < 0.05
    assert all(tensor.dtype == torch.float32 for tensor in weights(run).values())
