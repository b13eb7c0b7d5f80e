"""Training files: lines, duplicates, encodings, and everything that can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.config.files import read_settings
from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError

Write = Callable[..., Path]


def _error(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    return caught.value


def test_every_key_knows_its_line(write: Write) -> None:
    path = write("### model\nstage: sft\n\nlora_rank: 8 # small\n")
    assert [(s.key, s.raw, s.where) for s in read_settings(path)] == [
        ("stage", "sft", f"{path}:2"),
        ("lora_rank", "8", f"{path}:4"),
    ]


def test_json_keys_know_their_lines_and_tabs_are_fine(write: Write) -> None:
    path = write(
        '{\n\t"stage": "sft",\n\t"dataset": ["a", "b"],\n\n\t"lora_rank": 8, "packing": false,\n\t"run_name": null}\n',
        "a.json",
    )
    assert [(s.key, s.raw, int(s.where.rpartition(":")[2])) for s in read_settings(path)] == [
        ("stage", "sft", 2),
        ("dataset", ["a", "b"], 3),
        ("lora_rank", "8", 5),
        ("packing", "false", 5),
        ("run_name", None, 6),
    ]


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfstage: sft\r\nlora_rank: 4\r\n")
    assert [s.key for s in read_settings(path)] == ["stage", "lora_rank"]
    assert read_settings(path)[1].where.endswith(":2")


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_a_key_given_twice_names_both_lines(write: Write, name: str) -> None:
    text = "lora_rank: 8\nlora_rank: 16\n" if name.endswith("yaml") else '{"lora_rank": 8,\n"lora_rank": 16}'
    path = write(text, name)
    error = _error(path)
    assert error.what == "lora_rank is set twice"
    assert f"{path}:1" in error.where
    assert f"{path}:2" in error.where


def test_an_empty_file_sets_nothing(write: Write) -> None:
    assert read_settings(write("# nothing yet\n")) == []


@pytest.mark.parametrize(
    ("text", "line", "advice"),
    [
        ("stage: sft\nlora_rank 8\nseed: 1\n", 2, "`key: value`"),
        ("stage: sft\n\tlora_rank: 8\n", 2, "spaces"),
        ("dataset: [a, b\nstage: sft\n", 2, "`key: value`"),
        ("output_dir: C: x\n", 1, "quotes"),
    ],
)
def test_broken_yaml_names_the_line_and_the_remedy(write: Write, text: str, line: int, advice: str) -> None:
    error = _error(write(text))
    found = int(error.where.split(":")[-1].split(",")[0])
    assert error.what == "the file is not valid YAML"
    assert abs(found - line) <= 1
    assert advice in error.fix


def test_broken_json_names_the_line(write: Write) -> None:
    error = _error(write('{"stage": "sft",\n"lora_rank": }', "a.json"))
    assert error.where.endswith("a.json:2, column 14")


@pytest.mark.parametrize(
    ("text", "name"), [("- stage\n", "a.yaml"), ("learning_rate:1e-4\n", "b.yaml"), ("[1]", "c.json")]
)
def test_a_file_without_settings_is_refused(write: Write, text: str, name: str) -> None:
    assert _error(write(text, name)).what == "the file does not hold settings"


def test_a_missing_file_names_the_nearest(write: Write) -> None:
    path = write("stage: sft\n", "llama3_lora_sft.yaml")
    error = _error(path.with_name("llama3_lora_stf.yaml"))
    assert f"'{path}'" in error.fix
    assert "train.yaml" in _error(write("a: 1", "train.yaml").with_name("zzz.yaml")).fix


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    assert "no-such-folder does not exist" in _error(tmp_path / "no-such-folder" / "a.yaml").why


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "a.yaml"
    folder.mkdir()
    assert "cannot be read" in _error(folder).what


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gbk.yaml"
    path.write_bytes("default_system: 你好".encode("gbk"))
    assert "not UTF-8" in _error(path).what


def test_no_tag_runs_anything(write: Write, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    error = _error(write(f"stage: !!python/object/apply:os.mkdir ['{trace}']\n"))
    assert "not allowed" in error.what
    assert not trace.exists()


def test_anchors_and_merges_are_followed(write: Write) -> None:
    text = "lr_scheduler_kwargs: &a {min_lr: 1e-6, name: '1'}\ngradient_checkpointing_kwargs: {<<: *a}\n"
    assert read_settings(write(text))[0].raw == {"min_lr": 1e-6, "name": "1"}
    merged = read_settings(write("<<: {seed: 3, lora_rank: 4}\nlora_rank: 8\n"))
    assert {s.key: s.raw for s in merged} == {"seed": "3", "lora_rank": "8"}


def test_a_value_that_contains_itself_is_refused(write: Write) -> None:
    assert "nested too deeply" in _error(write("dataset: &a [*a]\n")).what


def test_numbers_in_mappings_are_numbers(write: Write) -> None:
    path = write(
        "model_name_or_path: m\noutput_dir: o\ndataset: d\nlr_scheduler_type: polynomial\n"
        "lr_scheduler_kwargs:\n  lr_end: 1e-6\n  power: 2\n"
    )
    assert resolve([str(path)], verb="train").config.lr_scheduler_kwargs == {"lr_end": 1e-6, "power": 2}
