"""For every stage: a run that died and was started again ends with the weights of the unbroken run, bit for bit.

The run dies in the same process here (an exception out of the loop, two steps after the last checkpoint), which every
stage can afford; `test_exact_resume.py` kills real processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.stages import CASES, write_stage_project
from tests.training import history, run_training, weights

from tunesmith.train.loop import Loop

SETTINGS: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lora_dropout": 0.1,
    "save_strategy": "steps",
    "save_steps": 3,
    "micro_batch_tokens": 200,
}


class Died(Exception):
    """Stands for the end of the process."""


def _die_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Loop._advance

    def dying(self: Loop, num_steps: int) -> None:
        advance(self, num_steps)
        if self.state.global_step == step:
            raise Died

    monkeypatch.setattr(Loop, "_advance", dying)


@pytest.mark.parametrize("name", list(CASES))
def test_a_resumed_run_ends_as_the_unbroken_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, settings = write_stage_project(tmp_path, name)
    settings = {**SETTINGS, **settings}
    unbroken = run_training(project, "unbroken", **settings)
    with monkeypatch.context() as patch:
        _die_at(5, patch)
        with pytest.raises(Died):
            run_training(project, "broken", **settings)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "another cache"))  # what was cached may be gone by then
    resumed = run_training(project, "broken", **settings)
    ours, theirs = weights(resumed), weights(unbroken)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert history(resumed, "loss") == history(unbroken, "loss")
    assert len(history(resumed, "loss")) > 5
