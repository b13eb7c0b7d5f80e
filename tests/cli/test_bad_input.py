"""Bad input: one clear message (what, where, why, what to do), exit code 2, no traceback, nothing lost.

Each case is a whole command of its own process, as a user would run it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training import arguments, write_project

Spoil = Callable[[Path, dict[str, Any]], None]


def _command(project: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    file = project / "train.yaml"
    lines = [argument.replace("=", ": ", 1) for argument in arguments(project, **settings)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tunesmith", "train", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )


def _data(project: Path) -> Path:
    return project / "data" / "rows.json"


def _unknown_key(project: Path, settings: dict[str, Any]) -> None:
    settings["learning_rat"] = 1e-4


def _wrong_type(project: Path, settings: dict[str, Any]) -> None:
    settings["lora_rank"] = "eight"


def _missing_model(project: Path, settings: dict[str, Any]) -> None:
    settings["model_name_or_path"] = project / "modle"


def _truncated(project: Path, settings: dict[str, Any]) -> None:
    file = project / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5000])


def _pointer(project: Path, settings: dict[str, Any]) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 600000\n"
    (project / "model" / "model.safetensors").write_text(text)


def _not_registered(project: Path, settings: dict[str, Any]) -> None:
    settings["dataset"] = "row"


def _broken_line(project: Path, settings: dict[str, Any]) -> None:
    lines = [json.dumps(row) for row in json.loads(_data(project).read_text())]
    lines[2] = lines[2][:-4]
    (project / "data" / "rows.jsonl").write_text("\n".join(lines))
    (project / "data" / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.jsonl"}}))


def _empty(project: Path, settings: dict[str, Any]) -> None:
    _data(project).write_text("[]")


def _answers_too_long(project: Path, settings: dict[str, Any]) -> None:
    rows = json.loads(_data(project).read_text())
    _data(project).write_text(json.dumps([{**row, "output": "word " * 400} for row in rows]))


def _prompts_too_long(project: Path, settings: dict[str, Any]) -> None:
    rows = json.loads(_data(project).read_text())
    _data(project).write_text(json.dumps([{**row, "instruction": "word " * 400} for row in rows]))


def _no_end_token(project: Path, settings: dict[str, Any]) -> None:
    settings["template"] = "empty"


def _foreign_tokens(project: Path, settings: dict[str, Any]) -> None:
    settings["template"] = "llama3"


def _fp16_on_cpu(project: Path, settings: dict[str, Any]) -> None:
    settings["fp16"] = True


def _unknown_target(project: Path, settings: dict[str, Any]) -> None:
    settings["lora_target"] = "q_porj"


def _other_stage(project: Path, settings: dict[str, Any]) -> None:
    settings["stage"] = "dpo"


def _tutorial_2_tags(project: Path, settings: dict[str, Any]) -> None:
    turns = [{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}] * 9
    _data(project).write_text(json.dumps(turns))
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "conversations"}, "tags": tags}
    (project / "data" / "dataset_info.json").write_text(json.dumps({"rows": entry}))


CASES: list[tuple[Spoil, tuple[str, ...]]] = [
    (_unknown_key, ("learning_rat", "train.yaml:", "learning_rate")),
    (_wrong_type, ("lora_rank", "eight", "train.yaml:")),
    (_missing_model, ("modle", "Nearby", "model")),
    (_truncated, ("model.safetensors", "5,000 bytes are missing")),
    (_pointer, ("Git-LFS pointer", "600,000 bytes", "git lfs pull")),
    (_not_registered, ("row", "rows", "dataset_info.json")),
    (_broken_line, ("rows.jsonl:3",)),
    (_empty, ("rows.json",)),
    (_answers_too_long, ("cutoff_len",)),
    (_prompts_too_long, ("cutoff_len",)),
    (_no_end_token, ("no end token", "min_stop_fraction")),
    (_foreign_tokens, ("llama3", "<|start_header_id|>")),
    (_fp16_on_cpu, ("fp16: true", "bf16: true", "train.yaml:")),
    (_unknown_target, ("q_porj", "q_proj")),
    (_other_stage, ("questions with one answer each", "stage: dpo", "it fits stage sft")),
    (_tutorial_2_tags, ("human", "gpt", "user_tag")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "named"), CASES, ids=[spoil.__name__.strip("_") for spoil, _ in CASES])
def test_it_is_named_and_exits_with_2(tmp_path: Path, spoil: Spoil, named: tuple[str, ...]) -> None:
    project = write_project(tmp_path, num_rows=12)
    settings: dict[str, Any] = {}
    spoil(project, settings)
    done = _command(project, **settings)
    print(done.stderr)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error:")
    assert "\ndo:" in done.stderr
    for word in named:
        assert word in done.stderr, word
    assert not (project / "out" / "adapter_model.safetensors").exists()


def test_a_disk_that_fills_up_during_a_save_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from tests.training import run_training

    from tunesmith.errors import TrainingError
    from tunesmith.model.checkpoints import why_incomplete
    from tunesmith.train import checkpoint

    project = write_project(tmp_path, num_rows=24)
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    original = checkpoint.save_file
    calls = []

    def full(tensors: Any, file: Path) -> None:
        calls.append(file)
        if len(calls) == 2:
            Path(file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError) as caught:
        run_training(project, **settings)
    text = caught.value.render()
    assert "the disk is full: checkpoint-4" in text
    assert "checkpoint-2 is untouched" in text
    assert not why_incomplete(project / "out" / "checkpoint-2")
    assert [path.name for path in (project / "out").glob("*checkpoint-4*")] == []
    monkeypatch.setattr(checkpoint, "save_file", original)
    resumed = run_training(project, **settings)
    assert (resumed / "adapter_model.safetensors").read_bytes() == (
        run_training(project, "whole", **settings) / "adapter_model.safetensors"
    ).read_bytes()


def test_the_folder_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    from tests.training import run_training

    from tunesmith.errors import ResumeError

    project = write_project(tmp_path, num_rows=12)
    run = run_training(project, max_steps=2)
    before = (run / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ResumeError) as caught:
        run_training(project, max_steps=2)
    assert "overwrite_output_dir: true" in caught.value.render()
    run_training(project, "saved", max_steps=2, save_strategy="steps", save_steps=1)
    with pytest.raises(ResumeError, match="was not made by this run"):
        run_training(project, "saved", max_steps=4, save_strategy="steps", lora_rank=2)
    assert (run / "adapter_model.safetensors").read_bytes() == before


def test_a_full_disk_anywhere_is_no_bug_of_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    from tunesmith.cli import main as cli

    def full(_: list[str]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/out/run.log")

    monkeypatch.setattr(cli, "_dispatch", full)
    assert cli.main(["train", "x.yaml"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: the disk is full\nwhere: /runs/out/run.log")
