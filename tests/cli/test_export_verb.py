"""`tunesmith export` from the command line: exit codes and what is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny import tiny_adapter, tiny_model


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    tiny_model(folder / "base")
    tiny_adapter(folder / "adapter", folder / "base")
    tiny_adapter(folder / "idle", folder / "base", scale=0.0)
    (folder / "merge.yaml").write_text(
        "model_name_or_path: base\nadapter_name_or_path: adapter\ntemplate: chatml\nfinetuning_type: lora\n"
        "export_dir: merged\nexport_size: 2\nexport_device: cpu\nexport_legacy_format: false\n"
    )
    return folder


def export(models: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", "export", "merge.yaml", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=models, env=env, check=False)


def test_a_merge_file_is_exported_and_proven(models: Path) -> None:
    done = export(models)
    assert done.returncode == 0, done.stderr
    assert "100.0% of" in done.stdout
    assert json.loads((models / "merged" / "proof.json").read_text())["problems"] == []


def test_an_adapter_without_effect_exits_2_and_writes_nothing(models: Path) -> None:
    done = export(models, "adapter_name_or_path=idle", "export_dir=nothing")
    assert done.returncode == 2
    assert "no effect" in done.stderr
    assert not (models / "nothing").exists()


def test_foreign_files_in_the_destination_exit_2(models: Path) -> None:
    done = export(models, "export_dir=base")
    assert done.returncode == 2
    assert "not an earlier export" in done.stderr
    assert (models / "base" / "config.json").is_file()
