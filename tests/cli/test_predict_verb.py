"""`do_predict` in a training file: after the training, by what it has saved; and the verbs that lead to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.training import arguments, write_project

from tunesmith.cli.main import main
from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("verbs"), num_rows=16)


def lines_of(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "generated_predictions.jsonl").read_text().splitlines()]


def test_rows_are_answered_after_training_by_what_it_saved(project: Path, tmp_path: Path) -> None:
    settings = {"val_size": 4, "do_predict": True, "max_new_tokens": 12, "do_sample": False, "max_steps": 4}
    argv = arguments(project, **settings, learning_rate=0.02, output_dir=tmp_path / "run")
    assert main(["train", *argv]) == 0
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert {"train_loss", "eval_loss", "predict_bleu-4"} <= results.keys()
    after = lines_of(tmp_path / "run")
    assert len(after) == 4
    # the verb finds the same model through the training file, and the base answers otherwise
    again = [a for a in argv if not a.startswith("output_dir")]
    alone = ["do_train=false", f"adapter_name_or_path={tmp_path / 'run'}", f"output_dir={tmp_path / 'alone'}"]
    assert main(["predict", *again, *alone]) == 0
    assert lines_of(tmp_path / "alone") == after
    assert main(["predict", *again, "do_train=false", f"output_dir={tmp_path / 'base'}"]) == 0
    assert [line["predict"] for line in lines_of(tmp_path / "base")] != [line["predict"] for line in after]


def test_a_training_file_without_a_result_is_not_answered_by_its_base(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *arguments(project, output_dir=tmp_path / "never", eval_dataset="rows")]) == 2
    assert "holds no tuned adapter" in capsys.readouterr().err


def test_training_is_not_started_where_only_a_prediction_is_asked_for(project: Path, tmp_path: Path) -> None:
    argv = [a for a in arguments(project, output_dir=tmp_path / "out") if not a.startswith(("do_train", "dataset="))]
    more = ["do_predict=true", "eval_dataset=rows", "max_samples=2", "max_new_tokens=4"]
    assert main(["train", *argv, *more]) == 0
    assert len(lines_of(tmp_path / "out")) == 2
    assert not (tmp_path / "out" / "trainer_state.json").exists()


def test_the_public_tool_s_prediction_file_is_understood() -> None:
    argv = ["model_name_or_path=m", "stage=sft", "do_predict=true", "predict_with_generate=true", "eval_dataset=e"]
    resolved = resolve([*argv, "output_dir=o", "per_device_eval_batch_size=1"], verb="train")
    assert not resolved.config.do_train
    assert resolved.notes == []
    with pytest.raises(ConfigError, match="a reward model scores"):
        resolve([*argv, "output_dir=o", "stage=rm"], verb="train")
