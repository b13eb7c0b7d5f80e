"""A GGUF file as base model: unpacked once, said openly, trained, talked to and exported like any other."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import CHATML_JINJA
from tests.training import arguments, run_training, write_project
from tests.unit.export.test_gguf_conversion import write_gguf

from tunesmith.config import Config
from tunesmith.config.resolve import resolve
from tunesmith.errors import ModelError
from tunesmith.model import gguf_base
from tunesmith.model.fingerprint import weights_fingerprint
from tunesmith.model.gguf_base import gguf_file_of, stored_dtype, unpacked
from tunesmith.model.load import check_base_model, load_model, load_tokenizer, model_folder
from tunesmith.model.plain import load_plain_model, load_plain_tokenizer
from tunesmith.render import load_renderer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, the tiny model, and the same model as a GGUF file alone in a folder."""
    folder = write_project(tmp_path_factory.mktemp("gguf_base"))
    (folder / "packed").mkdir()
    write_gguf(folder / "packed" / "tiny.gguf", folder / "model")
    return folder


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("named", ["packed/tiny.gguf", "packed"], ids=["file", "folder"])
def test_weights_and_tokenizer_are_those_of_the_file(project: Path, named: str) -> None:
    config = Config(model_name_or_path=str(project / named))
    ids = torch.arange(3, 60)[None]
    original = load_plain_model(project / "model", torch.float32)(ids).logits
    read = load_model(config, dtype=torch.float32, for_training=False)(ids).logits
    assert (original - read).abs().max() < 1e-5
    text = "Who are you? 你是谁？ <|im_start|>"
    assert load_tokenizer(config)(text)["input_ids"] == load_plain_tokenizer(project / "model")(text)["input_ids"]


def test_the_prompt_has_the_tokens_that_the_original_model_gets(project: Path) -> None:
    from tunesmith.types import Message

    prompts = []
    for name in ("model", "packed/tiny.gguf"):
        config = Config(model_name_or_path=str(project / name), template="chatml")
        renderer = load_renderer(config, load_tokenizer(config))
        prompts.append((renderer.prompt([Message("user", "Who are you?")]), renderer.stop_ids))
    assert prompts[0] == prompts[1]


def test_the_template_inside_the_file_is_the_models_own(project: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "own.gguf", project / "model", chat_template=CHATML_JINJA)
    config = Config(model_name_or_path=str(tmp_path / "own.gguf"))
    assert load_tokenizer(config).chat_template == CHATML_JINJA
    assert load_renderer(config, load_tokenizer(config)).template_name == "the model's own"


def test_the_file_is_unpacked_once_and_again_when_it_changes(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.model import gguf

    calls: list[Path] = []
    original = gguf.convert_gguf
    monkeypatch.setattr(gguf, "convert_gguf", lambda *args: (calls.append(args[0]), original(*args))[1])
    file = tmp_path / "tiny.gguf"
    file.write_bytes((project / "packed" / "tiny.gguf").read_bytes())
    first = unpacked(file, None)
    gguf_base._unpacked.cache_clear()  # as another process
    assert unpacked(file, None) == first
    assert len(calls) == 1
    write_gguf(file, project / "model", eos_id=1)
    os.utime(file, (1, 1))
    second = unpacked(file, None)
    assert second != first
    assert len(calls) == 2
    assert json.loads((second / "config.json").read_text())["eos_token_id"] == 1


def test_the_cache_lies_where_the_user_wants_it(project: Path, tmp_path: Path) -> None:
    config = Config(model_name_or_path=str(project / "packed"), cache_dir=str(tmp_path / "mine"))
    assert model_folder(config).parent == tmp_path / "mine" / "gguf"
    assert not (tmp_path / "cache").exists()


def test_the_note_names_the_folder_and_what_does_not_come_back(project: Path) -> None:
    (note,) = check_base_model(Config(model_name_or_path=str(project / "packed")), CPU, for_training=True)
    assert "tiny.gguf is unpacked to float32" in note
    assert "does not come back" in note


def test_quantized_files_are_unpacked_to_bfloat16(tmp_path: Path) -> None:
    import gguf
    import numpy as np

    def write(kind: Any) -> Path:
        writer = gguf.GGUFWriter(str(tmp_path / f"{kind.name}.gguf"), "llama")
        weight = np.ones((2, 64), np.float32)
        packed = kind.name not in ("F32", "F16")
        values = gguf.quantize(weight, kind) if packed else weight.astype(np.float16 if kind.name == "F16" else "f4")
        writer.add_tensor("token_embd.weight", values, raw_dtype=kind)
        writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
        for write_part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            write_part()
        writer.close()
        return tmp_path / f"{kind.name}.gguf"

    kinds = gguf.GGMLQuantizationType
    found = {kind.name: stored_dtype(write(kind)) for kind in (kinds.F32, kinds.F16, kinds.BF16, kinds.Q8_0)}
    assert found == {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "Q8_0": torch.bfloat16}


def test_lora_on_a_gguf_file_trains_as_on_the_original_and_exports(project: Path) -> None:
    from tests.training import history

    from tunesmith.export.merge import export

    short = {"num_train_epochs": 1, "learning_rate": 5e-3}
    original = run_training(project, "original", **short)
    run = run_training(project, "from-gguf", model_name_or_path=project / "packed" / "tiny.gguf", **short)
    assert history(run, "loss") == pytest.approx(history(original, "loss"), rel=1e-5)
    base = json.loads((run / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert (Path(base) / "model.safetensors").is_file()  # what plain PEFT loads: the unpacked folder
    assert export(resolve([str(run / "run.yaml"), f"export_dir={project / 'merged'}"], verb="export")) == 0
    assert json.loads((project / "merged" / "proof.json").read_text())["problems"] == []


def test_a_gguf_base_can_be_quantized_again(project: Path) -> None:
    from tunesmith.model.quantized_layers import is_quantized

    config = Config(model_name_or_path=str(project / "packed"), quantization_bit=4)
    assert is_quantized(load_model(config, dtype=torch.float32))


def test_the_weights_are_known_by_the_unpacked_folder(project: Path) -> None:
    assert weights_fingerprint(model_folder(Config(model_name_or_path=str(project / "packed")))).startswith("sha256:")


def test_the_train_command_accepts_a_folder_with_one_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.cli import train as command
    from tunesmith.train import run as training

    monkeypatch.setattr(training, "train", lambda resolved: 0)
    assert command.run(arguments(project, model_name_or_path=project / "packed")) == 0


# Bad input


def test_a_folder_with_several_files_asks_which(project: Path, tmp_path: Path) -> None:
    for name in ("a.Q4_0.gguf", "a.Q8_0.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="holds 2 GGUF files") as caught:
        model_folder(Config(model_name_or_path=str(tmp_path)))
    assert "a.Q4_0.gguf" in caught.value.fix


def test_a_model_folder_with_a_gguf_file_beside_is_that_folder(project: Path) -> None:
    (project / "model" / "copy.gguf").write_bytes(b"GGUF")
    assert gguf_file_of(project / "model") is None
    (project / "model" / "copy.gguf").unlink()


@pytest.mark.parametrize("content", [b"<html>", b"GGUF", b"GGUF" + struct.pack("<IQQ", 3, 10, 10)])
def test_what_is_no_whole_gguf_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.gguf") as caught:
        model_folder(Config(model_name_or_path=str(tmp_path / "bad.gguf")))
    assert caught.value.fix
    assert not list((tmp_path / "cache").rglob("config.json"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such GGUF file"):
        model_folder(Config(model_name_or_path=str(tmp_path / "none.gguf")))


def test_a_missing_gguf_package_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the package 'gguf'") as caught:
        model_folder(Config(model_name_or_path=str(project / "packed")))
    assert "pip install 'tunesmith[gguf]'" in caught.value.fix
