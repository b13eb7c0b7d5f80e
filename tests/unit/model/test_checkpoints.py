"""A checkpoint is whole only when every file has the size and the hash that its manifest says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.training import run_training, write_project

from tunesmith.model.checkpoints import checkpoints, why_incomplete, why_torn


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = write_project(tmp_path_factory.mktemp("checkpoints"), num_rows=8)
    return run_training(project, max_steps=10, save_strategy="steps", save_steps=2)


def test_they_are_found_in_the_order_of_their_steps(run: Path) -> None:
    assert [path.name for path in checkpoints(run)] == [f"checkpoint-{step}" for step in (2, 4, 6, 8, 10)]
    assert [why_incomplete(path) for path in checkpoints(run)] == [""] * 5


def test_one_changed_byte_is_noticed_by_the_hash(run: Path) -> None:
    folder = run / "checkpoint-4"
    file = folder / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert why_incomplete(folder) == "optimizer.safetensors has changed since it was written"
    assert why_torn(folder, hashes=False) == ""


def test_a_missing_file_and_a_missing_manifest_are_noticed(run: Path) -> None:
    (run / "checkpoint-6" / "trainer_state.json").unlink()
    assert why_incomplete(run / "checkpoint-6") == "trainer_state.json is missing"
    (run / "checkpoint-8" / "manifest.json").unlink()
    assert "it was not finished" in why_incomplete(run / "checkpoint-8")


def test_weights_alone_cannot_be_resumed_from(tmp_path: Path) -> None:
    project = write_project(tmp_path, num_rows=8)
    only = run_training(project, max_steps=2, save_strategy="steps", save_steps=2, save_only_model=True)
    assert "save_only_model" in why_incomplete(only / "checkpoint-2")
