"""Follows docs/howto/add-a-stage.md: its stage trains, whole batch or cut up, and is another loss than sft."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.training import history, largest_difference, run_training, write_project

from tunesmith.train.stage import STAGES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "add-a-stage.md"


def test_the_stage_of_the_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert block is not None
    code = "\n".join(line.removeprefix("   ") for line in block[1].splitlines())
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)

    project = write_project(tmp_path, num_rows=16)
    sft = history(run_training(project, "sft", max_steps=4), "loss")
    monkeypatch.setattr(STAGES, "get", lambda name: names["Focal"])
    focal = history(run_training(project, "focal", max_steps=4), "loss")
    cut_up = history(run_training(project, "cut", max_steps=4, micro_batch_tokens=1), "loss")
    # at the start each token has a probability near 1/512, so nearly all of its loss is left
    assert focal[0] == pytest.approx(sft[0], rel=0.02)
    assert focal[0] < sft[0]
    assert largest_difference(focal, cut_up) < 1e-5
