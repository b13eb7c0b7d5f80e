"""What an export refuses before it writes anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tunesmith.errors import ExportError
from tunesmith.export import destination
from tunesmith.export.destination import check_destination, check_disk, refuse_idle_adapters, refuse_quantized
from tunesmith.infer.locate import Located


def settings(**values):
    return SimpleNamespace(**{"export_dir": None, "quantization_bit": None, **values})


def base_model(folder: Path, **config) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "float32", **config}))
    save_file({"w": torch.zeros(1000, 1000)}, folder / "model.safetensors")
    return folder


def test_no_export_dir_is_refused() -> None:
    with pytest.raises(ExportError, match="no export folder"):
        check_destination(settings())


def test_foreign_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match=r"thesis\.tex"):
        check_destination(settings(export_dir=str(tmp_path)))


def test_an_earlier_export_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "proof.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert check_destination(settings(export_dir=str(tmp_path))) == tmp_path


def test_a_file_is_not_a_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="is a file"):
        check_destination(settings(export_dir=str(tmp_path / "file")))


def test_a_quantized_base_is_refused_with_the_reason(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ExportError, match="gptq") as caught:
        refuse_quantized(settings(), base)
    assert "unquantized" in caught.value.fix


def test_quantization_bit_is_refused_although_the_base_is_not_quantized(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    with pytest.raises(ExportError, match="quantization_bit is 4"):
        refuse_quantized(settings(quantization_bit=4), base)
    refuse_quantized(settings(), base)


@pytest.mark.parametrize(
    ("tensors", "is_idle"),
    [
        ({"q.lora_A.weight": torch.ones(2, 2), "q.lora_B.weight": torch.zeros(2, 2)}, True),
        ({"q.lora_A.weight": torch.ones(2, 2), "q.lora_B.weight": torch.eye(2)}, False),
        ({"e.lora_embedding_A": torch.ones(2, 2), "e.lora_embedding_B": torch.zeros(2, 2)}, True),
        (
            {"q.lora_A.weight": torch.ones(2, 2), "q.lora_B.weight": torch.zeros(2, 2), "lm_head.weight": torch.eye(2)},
            False,
        ),
    ],
)
def test_an_adapter_whose_updates_are_all_zero_is_refused(tmp_path: Path, tensors, is_idle: bool) -> None:
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    located = Located("base", (str(tmp_path),), None, ())
    if is_idle:
        with pytest.raises(ExportError, match="no effect"):
            refuse_idle_adapters(located)
    else:
        refuse_idle_adapters(located)


def test_the_size_is_estimated_in_the_dtype_of_the_export(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")  # a million float32 values
    whole, half = (destination.export_size_bytes(base, dtype) for dtype in ("float32", "bfloat16"))
    assert whole - half == pytest.approx(2_000_000, rel=0.01)


def test_a_disk_without_room_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_model(tmp_path / "base")
    target = tmp_path / "not" / "yet" / "there"
    check_disk(base, target, "float32")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(ExportError, match=r"0\.0 GB free"):
        check_disk(base, target, "float32")
