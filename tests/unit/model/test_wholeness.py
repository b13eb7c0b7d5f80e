"""`tunesmith verify`: every kind of damage to a folder is one line that begins with FAIL."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import tiny_adapter, tiny_model

from tunesmith.cli.verify import run
from tunesmith.errors import ConfigError
from tunesmith.model.fingerprint import file_sha256
from tunesmith.model.wholeness import check_folder, failures, git_sha1

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 988097824\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in four shards with its index, and an adapter on it."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("whole")
    tiny_model(folder / "one")
    model = AutoModelForCausalLM.from_pretrained(folder / "one")
    shutil.copytree(folder / "one", folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    model.save_pretrained(folder / "model", max_shard_size="200KB")
    tiny_adapter(folder / "adapter", folder / "one")
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "model", tmp_path / "model"))


@pytest.fixture
def adapter(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "adapter", tmp_path / "adapter"))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def _cut(folder: Path) -> None:
    shard = _shards(folder)[0]
    shard.write_bytes(shard.read_bytes()[:-100])


def _pointer(folder: Path) -> None:
    _shards(folder)[0].write_text(POINTER)


def _twice(folder: Path) -> None:
    first, second = _shards(folder)[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: tensor.clone()}, second)


def _in_no_index(folder: Path) -> None:
    shard = _shards(folder)[0]
    save_file({**load_file(shard), "stray": torch.ones(2)}, shard)


def _gone_from_its_shard(folder: Path) -> None:
    shard = _shards(folder)[0]
    save_file(dict(list(load_file(shard).items())[1:]), shard)


def _empty(folder: Path) -> None:
    shard = _shards(folder)[0]
    weights = load_file(shard)
    save_file({name: torch.empty(0, 4) for name in weights}, shard)


def _stop_outside(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 99999}')


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a truncated shard": (_cut, "weight files: "),
    "a shard that is missing": (lambda folder: _shards(folder)[1].unlink(), "weight files: 1 of "),
    "an LFS pointer": (_pointer, "LFS pointers: "),
    "a tensor in two shards": (_twice, "index: "),
    "a tensor in no index": (_in_no_index, "index: 1 faults: stray is in no index"),
    "a tensor that its shard lacks": (_gone_from_its_shard, "index: "),
    "empty tensors": (_empty, "empty tensors: "),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer: missing"),
    "a tokenizer that is no JSON": (lambda folder: (folder / "tokenizer.json").write_text("<html>"), "tokenizer: "),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: "),
    "a config without a type": (lambda folder: (folder / "config.json").write_text("{}"), "config.json: it names no"),
    "a stop token outside the vocabulary": (_stop_outside, "stop tokens: "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(model: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, line = DAMAGE[name]
    damage(model)
    assert any(fault.startswith(line) for fault in failures(check_folder(model))), failures(check_folder(model))
    assert run([str(model)]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_whole_model_and_a_whole_adapter_pass(model: Path, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(_shards(model)) == 4
    assert (run([str(model)]), run([str(adapter), "--hashes"])) == (0, 0)
    out = capsys.readouterr().out
    assert "FAIL" not in out
    assert "each in one file" in out
    assert [line.rpartition(": ")[2] for line in out.splitlines() if line.startswith("/")] == ["whole", "whole"]


def test_a_base_without_a_chat_template_is_no_fault(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    found = next(check for check in check_folder(model) if check.name == "chat template")
    assert found.status == "note"


def test_an_adapter_that_does_nothing_or_is_cut_is_found(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: torch.zeros_like(t) if "lora_B" in name else t for name, t in weights.items()}, file)
    assert any(fault.startswith("effect: ") for fault in failures(check_folder(adapter)))
    file.write_bytes(file.read_bytes()[:-10])
    assert any(fault.startswith("weight files: ") for fault in failures(check_folder(adapter)))


def test_hashes_find_one_changed_byte_that_nothing_else_shows(model: Path) -> None:
    shard = _shards(model)[0]
    files = {path.name: file_sha256(path) for path in model.iterdir()}
    (model / "proof.json").write_text(json.dumps({"files_sha256": files, "stop_ids": [2]}))
    assert failures(check_folder(model, hashes=True)) == []
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    assert failures(check_folder(model)) == []
    assert failures(check_folder(model, hashes=True)) == [
        f"recorded files: 1 of {len(files)}: {shard.name} has other content than recorded"
    ]


def test_a_recorded_file_that_is_gone_is_a_fault_without_hashes(model: Path) -> None:
    (model / "download.json").write_text(json.dumps({"files": {"vocab.txt": {"size_bytes": 5}}}))
    assert failures(check_folder(model)) == ["recorded files: 1 of 1: vocab.txt is missing"]


def test_without_a_record_hashes_say_so(model: Path) -> None:
    found = next(check for check in check_folder(model, hashes=True) if check.name == "hashes")
    assert (found.status, "nothing to compare with" in found.detail) == ("note", True)


def test_git_names_a_file_as_git_does(tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert (
        git_sha1(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"
    )  # printf 'hello\n' | git hash-object


def test_a_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    assert run([str(tmp_path / "no")]) == 1
    for wrong in ([], ["a", "b"], ["a", "--hash"]):
        with pytest.raises(ConfigError):
            run(wrong)
