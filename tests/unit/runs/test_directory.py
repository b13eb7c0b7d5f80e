"""A run folder is read as it is: finished, stopped, running or empty, with half-written files among the rest."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tunesmith.cli.runs import run
from tunesmith.errors import UserError
from tunesmith.model.checkpoints import MANIFEST
from tunesmith.runs.directory import STATE_FILE, find_runs, read_log, read_run

LOG = [
    {"current_steps": 5, "total_steps": 20, "loss": 2.5, "lr": 1e-3, "epoch": 1.0},
    {"current_steps": 10, "total_steps": 20, "loss": 1.25, "lr": 5e-4, "epoch": 2.0},
    {"current_steps": 10, "total_steps": 20, "eval_loss": 1.5, "epoch": 2.0},
]
COUNTS = {"dataset": "d", "file": "d.json", "use": "train", "num_rows": 10, "num_whole": 7, "num_cut": 1}
LEDGER = {
    "files": [{**COUNTS, "num_dropped": 2, "num_duplicates": 3, "num_cut_tokens": 40}],
    "totals": {"train": {"num_tokens": 900, "num_trained_tokens": 300}},
}


def make_run(path: Path, *, age_s: float = 0.0) -> Path:
    path.mkdir(parents=True)
    (path / "run.yaml").write_text("learning_rate: 0.001\nlora_rank: 8\nstage: sft\n", encoding="utf-8")
    (path / "trainer_log.jsonl").write_text("\n".join(map(json.dumps, LOG)) + '\n{"current_st', encoding="utf-8")
    (path / "ledger_summary.json").write_text(json.dumps(LEDGER), encoding="utf-8")
    for step, size_bytes in ((5, 4), (10, 5)):
        folder = path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "resume.json").write_text("{}  ", encoding="utf-8")
        manifest = {"files": {"resume.json": {"size_bytes": size_bytes}}}
        (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    (path / "checkpoint-15").mkdir()
    then = time.time() - age_s
    os.utime(path / "trainer_log.jsonl", (then, then))
    return path


def test_the_last_logged_numbers_are_read_past_a_half_written_line(tmp_path: Path) -> None:
    info = read_run(make_run(tmp_path / "a"))
    assert (info.num_steps, info.total_steps, info.loss, info.eval_loss) == (10, 20, 1.25, 1.5)
    assert len(read_log(tmp_path / "a" / "trainer_log.jsonl")) == len(LOG)


def test_a_torn_checkpoint_is_told_from_a_complete_one(tmp_path: Path) -> None:
    checkpoints = read_run(make_run(tmp_path / "a")).checkpoints
    assert [checkpoint.step for checkpoint in checkpoints] == [5, 10, 15]
    whole, short, unfinished = (checkpoint.problem for checkpoint in checkpoints)
    assert whole == ""
    assert short == "resume.json is 4 of 5 bytes long"
    assert "not finished" in unfinished


def test_the_status_follows_the_files(tmp_path: Path) -> None:
    recent, old, done, empty = (tmp_path / name for name in ("recent", "old", "done", "empty"))
    make_run(recent)
    make_run(old, age_s=3600)
    make_run(done, age_s=3600)
    (done / STATE_FILE).write_text('{"finished": true}', encoding="utf-8")
    (old / STATE_FILE).write_text('{"finished": false}', encoding="utf-8")
    empty.mkdir()
    (empty / "run.yaml").write_text("stage: sft\n", encoding="utf-8")
    assert [read_run(path).status for path in (recent, old, done, empty)] == [
        "running?",
        "stopped",
        "finished",
        "empty",
    ]


def test_the_state_of_an_earlier_training_does_not_make_a_new_one_finished(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    (path / STATE_FILE).write_text('{"finished": true}', encoding="utf-8")
    os.utime(path / STATE_FILE, (time.time() - 3600, time.time() - 3600))
    assert read_run(path).status == "running?"


def test_runs_are_found_below_a_folder_but_not_inside_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "m" / "lora" / "a")
    make_run(tmp_path / "m" / "full" / "b")
    make_run(tmp_path / "m" / "lora" / "a" / "inner")
    assert [path.name for path in find_runs(tmp_path)] == ["b", "a"]


def test_list_prints_one_line_per_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", age_s=3600)
    make_run(tmp_path / "b", age_s=3600)
    assert run([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("stopped") == 2
    assert "10/20" in out
    assert "1.2500" in out


def test_show_says_what_was_set_what_became_of_the_rows_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(tmp_path / "a", age_s=3600)
    assert run(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "learning_rate: 0.001" in out
    assert "lora_rank: 8" not in out  # the default
    assert "10 rows in, 7 whole, 1 cut, 2 dropped, 3 duplicates" in out
    assert "checkpoint-10  torn" in out
    assert "checkpoint-5  complete" in out
    assert f"tunesmith train {path / 'run.yaml'}" in out


def test_continuing_does_not_throw_away_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(tmp_path / "a", age_s=3600)
    with (path / "run.yaml").open("a", encoding="utf-8") as settings:
        settings.write("overwrite_output_dir: true\n")
    run(["show", str(path)])
    assert f"tunesmith train {path / 'run.yaml'} overwrite_output_dir=false" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["show"], ["show", "no_such"], ["no_such"], ["list", "a", "b"], ["--all"]])
def test_a_folder_that_is_no_run_is_a_user_error(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError):
        run(words)
