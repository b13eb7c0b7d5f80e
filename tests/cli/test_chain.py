"""SFT, DPO and PPO one on the other, each killed once and resumed, then chatted with and exported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny import tiny_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "show_chain.py"


@pytest.mark.slow
def test_a_chain_of_stages_survives_a_kill_in_each(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    short = ["template=chatml", "cutoff_len=1024", "max_samples=64", "max_steps=24", "save_steps=2"]
    command = [sys.executable, str(SCRIPT), "--folder", str(tmp_path / "chain"), "--model", str(model), *short]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["sft", "dpo", "ppo"]
    assert all("resuming from" in line for line in lines[:3])
    assert lines[-1].startswith("chat with the exported model")
