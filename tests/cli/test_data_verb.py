"""`tunesmith data`: preview, check and list, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tiny import tiny_model

from tunesmith.cli.main import main


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete small model folder."""
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def training_file(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"question {index}", "input": "", "output": f"answer {index}"} for index in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    registry = {"mine": {"file_name": "rows.json"}, "far": {"hf_hub_url": "org/set"}, "bad": {"format": "alpaca"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(registry), encoding="utf-8")
    path = tmp_path / "train.yaml"
    path.write_text(
        f"model_name_or_path: {model_folder}\ntemplate: chatml\nstage: sft\ndo_train: true\n"
        "finetuning_type: lora\ndataset: mine\ndataset_dir: .\noutput_dir: out\n",
        encoding="utf-8",
    )
    return path


def run(*argv: object) -> int:
    return main(["data", *map(str, argv)])


def test_preview_shows_rows_with_the_trained_part_in_brackets(
    training_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("preview", training_file, "--limit", 2) == 0
    out = capsys.readouterr().out
    assert "[[answer 0<|im_end|>]]" in out
    assert "[[answer 1<|im_end|>]]" in out
    assert "answer 2" not in out


def test_preview_of_one_row(training_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("preview", training_file, "--row=5") == 0
    out = capsys.readouterr().out
    assert "row 5, rows.json:22" in out
    assert "[[answer 4<|im_end|>]]" in out


def test_preview_without_a_file(training_file: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("preview", "--dataset", "rows.json", "--template", "chatml", "--model_name_or_path", model_folder) == 0
    out = capsys.readouterr().out
    assert "recognised as alpaca" in out
    assert "[[answer 2<|im_end|>]]" in out


def test_preview_as_a_page(training_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("preview", training_file, "--html", tmp_path / "rows.html") == 0
    assert "<!doctype html>" in (tmp_path / "rows.html").read_text("utf-8")
    assert "rows.html (3 rows)" in capsys.readouterr().out


def test_check_prints_the_ledger(training_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", training_file) == 0
    out = capsys.readouterr().out
    assert "rows.json" in out
    assert "8 of 8 trained turns end in a trained stop token" in out


def test_check_of_refused_data_exits_with_2(training_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", training_file, "cutoff_len=4") == 2
    assert "answer lies beyond cutoff_len" in capsys.readouterr().err


def test_list_shows_every_entry_and_its_problem(training_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", training_file) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert "8 rows" in lines["mine"]
    assert "hf_hub_url: org/set" in lines["far"]
    assert "unknown key 'format'" in lines["bad"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "which data command?"),
        (["prevew"], "Did you mean 'preview'"),
        (["preview", "FILE", "--limit", "many"], "expected a number"),
        (["preview", "FILE", "--limit"], "--limit needs a value"),
        (["preview", "FILE", "--row", "99"], "there is no row 99"),
        (["preview", "FILE", "--html", "missing/folder/x.html"], "cannot be written"),
    ],
)
def test_a_mistake_is_named_and_exits_with_2(
    training_file: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert run(*[str(training_file) if word == "FILE" else word for word in argv]) == 2
    assert said in capsys.readouterr().err
