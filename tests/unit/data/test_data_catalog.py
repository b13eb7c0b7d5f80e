"""Registries and paths: where datasets are looked for, and what is said when they are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_workspace import Workspace, many

from tunesmith.data.catalog import open_catalog
from tunesmith.errors import DataError


def refused_entry(workspace: Workspace, **raw: Any) -> DataError:
    workspace.write("rows.json", many(3))
    workspace.register(d={"file_name": "rows.json", **raw})
    with pytest.raises(DataError) as caught:
        workspace.prepare("d")
    return caught.value


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"format": "sharegpt"}, "Did you mean 'formatting'"),
        ({"column": {"prompt": "x"}}, "Did you mean 'columns'"),
        ({"columns": {"promt": "x"}}, "Did you mean 'prompt'"),
        ({"tags": {"user": "x"}}, "Did you mean 'user_tag'"),
        ({"formatting": "sharegbt"}, "Did you mean 'sharegpt'"),
        ({"columns": ["instruction"]}, "expected an object"),
        ({"columns": {"prompt": 3}}, "expected text"),
        ({"ranking": "true"}, "expected true or false"),
        ({"num_samples": "10"}, "expected a whole number"),
        ({"num_samples": True}, "expected a whole number"),
        ({"num_samples": 0}, "at least 1"),
        ({"split": "test"}, "belongs to a hub dataset"),
        ({"subset": "en"}, "belongs to a hub dataset"),
    ],
)
def test_a_mistake_in_an_entry_is_an_error_that_names_it(workspace: Workspace, raw: dict[str, Any], said: str) -> None:
    error = refused_entry(workspace, **raw)
    assert said in error.render()
    assert "dataset_info.json, d" in error.where


@pytest.mark.parametrize("key", ["hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"])
def test_a_remote_source_is_named_as_not_available_yet(workspace: Workspace, key: str) -> None:
    error = refused_entry(workspace, **{key: "org/set"})
    assert f"{key}: org/set" in error.what
    assert "download it first" in error.fix


def test_an_entry_without_a_source_is_refused(workspace: Workspace) -> None:
    workspace.register(d={"formatting": "alpaca"})
    with pytest.raises(DataError, match="names no source"):
        workspace.prepare("d")


@pytest.mark.parametrize(
    ("raw", "stages"),
    [
        ({"ranking": True}, "rm or dpo"),
        ({"columns": {"prompt": "instruction", "response": "output", "kto_tag": "input"}}, "kto"),
    ],
)
def test_preference_and_feedback_data_name_the_stage_that_fits(
    workspace: Workspace, raw: dict[str, Any], stages: str
) -> None:
    assert f"it fits stage {stages};" in refused_entry(workspace, **raw).fix


def test_media_columns_are_named_as_not_available_yet(workspace: Workspace) -> None:
    columns = {"prompt": "instruction", "response": "output", "images": "input"}
    assert "cannot be trained on yet" in refused_entry(workspace, columns=columns).what


@pytest.mark.parametrize("dataset_dir", ["ONLINE", "REMOTE:org/repo"])
def test_hub_folders_are_named_as_not_available_yet(workspace: Workspace, dataset_dir: str) -> None:
    with pytest.raises(DataError, match="not available yet"):
        workspace.prepare("d", dataset_dir=dataset_dir)


def test_an_unknown_name_lists_what_was_looked_at_and_the_nearest_name(workspace: Workspace) -> None:
    workspace.write("rows.json", many(3))
    workspace.register(identity={"file_name": "rows.json"}, other={"file_name": "rows.json"})
    with pytest.raises(DataError) as caught:
        workspace.prepare("identty")
    assert "Did you mean 'identity'?" in caught.value.fix
    assert "identity, other" in caught.value.fix
    assert str(workspace.data / "dataset_info.json") in caught.value.why
    assert str(workspace.folder / "identty") in caught.value.why


def test_a_missing_registry_is_shown_as_looked_for(workspace: Workspace) -> None:
    with pytest.raises(DataError) as caught:
        workspace.prepare("identity")
    assert f"{workspace.data / 'dataset_info.json'} (not there)" in caught.value.why


def test_a_broken_registry_is_named_with_its_line(workspace: Workspace) -> None:
    workspace.write("dataset_info.json", '{\n "a": {"file_name": "x"}\n "b": {}\n}')
    with pytest.raises(DataError) as caught:
        workspace.prepare("a")
    assert "dataset_info.json:3" in caught.value.where


def test_a_missing_data_file_of_an_entry_is_named(workspace: Workspace) -> None:
    workspace.register(d={"file_name": "rwos.json"})
    workspace.write("rows.json", many(1))
    with pytest.raises(DataError) as caught:
        workspace.prepare("d")
    assert "Did you mean 'rows.json'" in caught.value.fix


def test_the_same_configuration_works_from_three_directories(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.write("rows.json", many(5))
    workspace.register(d={"file_name": "rows.json"})
    hashes = set()
    for name in (".", "data", "elsewhere/deep"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        prepared = workspace.prepare("d")
        hashes.add((len(prepared.train), json.dumps(prepared.fingerprint)))
    assert len(hashes) == 1
    assert hashes.pop()[0] == 5


def test_the_working_directory_is_looked_at_after_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert open_catalog("data", tmp_path / "configs").folder == tmp_path / "data"
    (tmp_path / "configs" / "data").mkdir()
    (tmp_path / "configs" / "data" / "dataset_info.json").write_text("{}", encoding="utf-8")
    assert open_catalog("data", tmp_path / "configs").folder == tmp_path / "configs" / "data"
    assert open_catalog(str(tmp_path / "data"), tmp_path / "configs").folder == tmp_path / "data"


def test_a_dataset_is_named_by_the_path_of_a_file_a_folder_or_a_pattern(workspace: Workspace) -> None:
    workspace.write("parts/one.jsonl", many(2))
    workspace.write("parts/two.jsonl", many(3))
    file = str(workspace.data / "parts" / "one.jsonl")
    for name, count in ((file, 2), ("data/parts/one.jsonl", 2), ("parts", 5), ("data/parts/*.jsonl", 5)):
        prepared = workspace.prepare(name)
        assert len(prepared.train) == count
        assert any("recognised as alpaca" in note for note in prepared.notes)


def test_an_absolute_pattern_is_a_path(workspace: Workspace) -> None:
    workspace.write("one.jsonl", many(2))
    assert len(workspace.prepare(str(workspace.data / "*.jsonl")).train) == 2


def test_plain_text_named_by_its_path_is_sent_to_the_stage_that_fits(workspace: Workspace) -> None:
    workspace.write("a.txt", "one\ntwo\n")
    with pytest.raises(DataError) as caught:
        workspace.prepare("a.txt")
    assert "it fits stage pt" in caught.value.fix


def test_documents_registered_for_pretraining_are_sent_to_it_or_to_the_column_that_is_missing(
    workspace: Workspace,
) -> None:
    workspace.write("a.jsonl", [{"text": "t"}])
    workspace.register(d={"file_name": "a.jsonl", "columns": {"prompt": "text"}})
    with pytest.raises(DataError) as caught:
        workspace.prepare("d")
    assert "it fits stage pt" in caught.value.fix
    assert '"response": "COLUMN"' in caught.value.fix


def test_rows_of_no_known_format_are_refused_with_their_columns(workspace: Workspace) -> None:
    workspace.write("a.jsonl", [{"frage": "q", "antwort": "a"}])
    with pytest.raises(DataError) as caught:
        workspace.prepare("a.jsonl")
    assert "'frage' (1x), 'antwort' (1x)" in caught.value.what


@pytest.mark.parametrize(
    ("row", "stages"),
    [
        ({"instruction": "q", "output": "", "chosen": "a", "rejected": "b"}, "rm or dpo"),
        ({"instruction": "q", "output": "a", "label": False}, "kto"),
    ],
)
def test_pairs_and_verdicts_named_by_their_path_are_not_taken_for_answers(
    workspace: Workspace, row: dict[str, Any], stages: str
) -> None:
    workspace.write("a.jsonl", [row] * 3)
    with pytest.raises(DataError) as caught:
        workspace.prepare("a.jsonl")
    assert f"it fits stage {stages};" in caught.value.fix
