"""Damaged model folders are named: which file, how much is missing, what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tiny import tiny_model

from tunesmith.errors import ModelError
from tunesmith.model.verify import verify_model_folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 988097824\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model")


def _problem(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        verify_model_folder(folder)
    return caught.value.render()


def test_a_whole_folder_passes(folder: Path) -> None:
    assert [file.name for file in verify_model_folder(folder)] == ["model.safetensors"]


def test_a_missing_folder_names_the_nearest(folder: Path) -> None:
    assert str(folder) in _problem(folder.with_name("modle"))


def test_a_pointer_is_called_a_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(POINTER)
    text = _problem(folder)
    assert "Git-LFS pointer" in text
    assert "988,097,824 bytes" in text
    assert "git lfs pull" in text


def test_a_truncated_file_says_how_much_is_missing(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1000])
    assert "1,000 bytes are missing" in _problem(folder)


def test_a_file_cut_inside_its_header_is_noticed(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert "ends inside its header" in _problem(folder)


def test_a_web_page_in_place_of_weights_is_header_too_large(folder: Path) -> None:
    (folder / "model.safetensors").write_text("<!DOCTYPE html><html>Not found</html>" * 9)
    assert "HeaderTooLarge" in _problem(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors" in _problem(folder)


def test_pickles_are_refused_with_the_reason(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickle" in _problem(folder)


def test_an_adapter_in_place_of_a_model_is_explained(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert "adapter_name_or_path" in _problem(folder)
