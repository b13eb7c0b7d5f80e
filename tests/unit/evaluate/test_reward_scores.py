"""A reward model asked alone gives the scores that it gave at the end of its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.stages import write_stage_project
from tests.training import run_training

from tunesmith.config.resolve import resolve
from tunesmith.errors import ModelError, ResumeError
from tunesmith.evaluate import scores
from tunesmith.evaluate.predict import predict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of stage rm with its own predictions of 6 held-out pairs."""
    folder, settings = write_stage_project(tmp_path_factory.mktemp("scores"), "rm", num_rows=26)
    evaluation = {"val_size": 6, "do_predict": True, "max_steps": 4}
    return run_training(folder, **{**settings, **evaluation}), settings


def lines_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "generated_predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def ask(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    said: list[str] = []
    assert predict(resolve([*arguments, f"output_dir={folder}"], verb="predict"), said.append) == 0
    assert any("predict_accuracy" in line for line in said)
    return lines_of(folder)


def alone(run: Path, *more: str) -> list[str]:
    """The settings of the run, as a file that only predicts would have them."""
    return [str(run / "run.yaml"), "do_train=false", f"adapter_name_or_path={run}", *more]


def test_the_scores_are_those_of_the_training(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    found, trained = ask(tmp_path / "alone", *alone(run[0])), lines_of(run[0])
    assert len(found) == len(trained) == 6
    for one, other in zip(found, trained, strict=True):
        assert one["chosen"] == pytest.approx(other["chosen"], abs=1e-5)
        assert one["rejected"] == pytest.approx(other["rejected"], abs=1e-5)
    results = json.loads((tmp_path / "alone" / "predict_results.json").read_text(encoding="utf-8"))
    before = json.loads((run[0] / "predict_results.json").read_text(encoding="utf-8"))
    for name in ("predict_accuracy", "predict_loss", "predict_margin"):
        assert results[name] == pytest.approx(before[name], abs=1e-5)


def test_scores_are_kept_row_by_row(
    run: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "NUM_PAIRS_AT_ONCE", 2)
    whole = ask(tmp_path / "whole", *alone(run[0]))
    file = tmp_path / "part" / "generated_predictions.jsonl"
    ask(tmp_path / "part", *alone(run[0]))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[3:5]))
    assert ask(tmp_path / "part", *alone(run[0])) == whole
    with pytest.raises(ResumeError, match="cutoff_len: 192, now 120"):
        ask(tmp_path / "part", *alone(run[0], "cutoff_len=120"))


def test_a_pair_that_cannot_be_scored_has_a_line_with_the_reason(
    run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    found = ask(tmp_path / "short", *alone(run[0], "cutoff_len=24", "val_size=0", "eval_dataset=rows"))
    assert len(found) == 26
    assert [line["row"] for line in found] == list(range(len(found)))
    unscored = [line for line in found if line["chosen"] is None]
    assert unscored
    assert all("cutoff_len" in line["why"] for line in unscored)


def test_a_model_without_a_head_is_refused(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"value_head\.safetensors"):
        ask(tmp_path / "base", str(run[0] / "run.yaml"), "do_train=false", "adapter_name_or_path=null")
