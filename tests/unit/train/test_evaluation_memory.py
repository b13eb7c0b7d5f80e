"""Evaluation never needs more memory than training, however many rows it sees.

Each run is a process of its own, so that its peak resident size is its own. The model is wide enough for
activations and logits to matter: keeping the logits of the evaluation rows would take 0.4 GB here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.training import arguments, rows, write_project

PEAK = """
import resource, sys
from tunesmith.cli.main import main
code = main(sys.argv[1:])
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
raise SystemExit(code)
"""


def _peak_kb(project: Path, output: str, **settings: Any) -> int:
    command = [sys.executable, "-c", PEAK, "train", *arguments(project, output, **settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("PEAK")[1])


@pytest.mark.slow
def test_evaluating_ten_times_the_rows_needs_no_more_memory_than_training(tmp_path: Path) -> None:
    project = write_project(tmp_path, num_rows=30, vocab=8000, num_layers=16)
    (project / "data" / "rows.json").write_text(json.dumps(rows(30, longest=90)), encoding="utf-8")
    (project / "data" / "many.json").write_text(json.dumps(rows(300, seed=5, longest=90)), encoding="utf-8")
    info = {"rows": {"file_name": "rows.json"}, "many": {"file_name": "many.json"}}
    (project / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    settings = {
        "finetuning_type": "full",
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_steps": 6,
        "cutoff_len": 256,
    }
    training = _peak_kb(project, "train", **settings)
    evaluated = _peak_kb(
        project,
        "eval",
        eval_dataset="many",
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=64,
        **settings,
    )
    # 3 %: the allocator's own noise between processes, and the 0.1 MB that the rows themselves take
    assert evaluated <= 1.03 * training
