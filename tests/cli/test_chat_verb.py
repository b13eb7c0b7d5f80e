"""`tunesmith chat` as a script uses it: piped lines in, answers out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny import tiny_adapter, tiny_model


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    tiny_model(folder / "base")
    tiny_adapter(folder / "run", folder / "base")
    (folder / "train.yaml").write_text(
        f"model_name_or_path: {folder / 'base'}\noutput_dir: {folder / 'run'}\nstage: sft\nfinetuning_type: lora\n"
        "do_train: true\ndataset: identity\ntemplate: chatml\n"
    )
    return folder


def chat(models: Path, lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", "chat", str(models / "train.yaml"), "max_new_tokens=6", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, input=lines, capture_output=True, text=True, cwd=models, env=env, check=False)


def test_piped_lines_are_answered_in_order_by_the_tuned_model(models: Path) -> None:
    done = chat(models, "你是谁？\nclear\n你是谁？\n/save talk.jsonl\n", "--do_sample", "false")
    assert done.returncode == 0, done.stderr
    assert f"talking to: {models / 'base'} + adapter {models / 'run'}" in done.stderr
    first, second = done.stdout[: len(done.stdout) // 2], done.stdout[len(done.stdout) // 2 :]
    assert first == second != "", "after clear, a greedy model gives the same answer to the same question"
    assert "User:" not in done.stdout
    assert (models / "talk.jsonl").read_text(encoding="utf-8").count("你是谁") == 1


def test_a_setting_that_does_not_exist_stops_before_a_model_is_loaded(models: Path) -> None:
    done = chat(models, "Hi\n", "temprature=1")
    assert done.returncode == 2
    assert "temperature" in done.stderr
    assert "talking to" not in done.stderr
