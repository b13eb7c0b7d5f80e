"""Folders with quantized weights: read where the libraries allow it, otherwise refused by name before any weight."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import tiny_model, tiny_tokenizer

from tunesmith.config import Config
from tunesmith.errors import ModelError
from tunesmith.model.adapters import prepare_trainable
from tunesmith.model.load import check_base_model, load_model
from tunesmith.model.quantize import plan_loading
from tunesmith.model.quantized_layers import is_quantized
from tunesmith.model.stored_formats import READABLE, stored_format

CPU = torch.device("cpu")
PACKAGES = {"optimum", "gptqmodel", "bitsandbytes", "torchao"}


def mark(folder: Path, quantization: dict[str, Any]) -> Path:
    """Write `quantization_config` into a folder's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": quantization}))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("stored") / "base")


@pytest.fixture
def claimed(tmp_path: Path):
    """A folder that says it is in a format; its weights are plain, and must never be read."""

    def make(method: str, **more: Any) -> Path:
        return mark(tiny_model(tmp_path / method), {"quant_method": method, **more})

    return make


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> list[str]:
    """Let some quantization packages be missing and all others be there; returns the list of those asked for."""
    asked: list[str] = []
    original = importlib.import_module

    def fake(name: str, *rest: Any) -> Any:
        if name not in PACKAGES:
            return original(name, *rest)
        asked.append(name)
        if name in missing:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return object()

    monkeypatch.setattr(importlib, "import_module", fake)
    return asked


@pytest.mark.parametrize(
    ("method", "package", "command"),
    [
        ("gptq", "optimum", "pip install optimum"),
        ("gptq", "gptqmodel", "pip install gptqmodel --no-build-isolation"),
        ("awq", "gptqmodel", "pip install gptqmodel --no-build-isolation"),
        ("bitsandbytes", "bitsandbytes", "pip install bitsandbytes"),
        ("torchao", "torchao", "pip install torchao"),
    ],
)
def test_the_package_that_a_format_needs_is_named(
    claimed: Any, monkeypatch: pytest.MonkeyPatch, method: str, package: str, command: str
) -> None:
    without(monkeypatch, package)
    with pytest.raises(ModelError, match=f"quantized by {method}; reading them needs the package {package}") as caught:
        check_base_model(Config(model_name_or_path=str(claimed(method, bits=4))), CPU, for_training=True)
    assert caught.value.fix == command


@pytest.mark.parametrize(("method", "packages"), [("gptq", ["optimum", "gptqmodel"]), ("awq", ["gptqmodel"])])
def test_a_packed_folder_goes_to_the_loader_as_it_is_when_its_packages_are_there(
    claimed: Any, monkeypatch: pytest.MonkeyPatch, method: str, packages: list[str]
) -> None:
    from transformers import AutoModelForCausalLM

    asked, given = without(monkeypatch), []

    def loader(folder: Path, **arguments: Any) -> Any:
        given.append((folder, arguments))
        raise RuntimeError("far enough")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loader)
    folder = claimed(method, bits=4)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(Config(model_name_or_path=str(folder)), dtype=torch.bfloat16)
    assert asked == packages
    (place, arguments) = given[0]
    assert place == folder
    assert arguments["device_map"] == {"": "cpu"}
    assert "quantization_config" not in arguments  # the folder's own


@pytest.mark.parametrize("method", ["aqlm", "eetq", "quanto", "hqq", "compressed-tensors", "something-new"])
def test_a_format_that_cannot_be_read_is_refused_by_name(claimed: Any, method: str) -> None:
    folder = claimed(method)
    (folder / "model.safetensors").rename(folder / "elsewhere.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=f"quantized by {method}, which cannot be read here") as caught:
        load_model(Config(model_name_or_path=str(folder)), dtype=torch.float32)
    assert all(name in caught.value.fix for name in READABLE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"finetuning_type": "full"}, "finetuning_type full would have to change them"),
        ({"finetuning_type": "freeze"}, "finetuning_type freeze would have to change them"),
        ({"adapter_name_or_path": ("a", "b")}, "all adapters but the last would have to be merged"),
        ({"adapter_name_or_path": ("a",), "create_new_adapter": True}, "create_new_adapter would have to merge"),
        ({"pissa_init": True}, "pissa_init would have to change them"),
        ({"resize_vocab": True}, "vocabulary cannot be resized"),
    ],
)
def test_packed_folders_are_trained_through_one_adapter_only(
    claimed: Any, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    without(monkeypatch)
    with pytest.raises(ModelError, match=words):
        check_base_model(Config(model_name_or_path=str(claimed("gptq")), **change), CPU, for_training=True)
    assert check_base_model(Config(model_name_or_path=str(claimed("awq"))), CPU, for_training=True) == []


def test_bits_on_top_of_a_packed_folder_are_noted(claimed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch)
    config = Config(model_name_or_path=str(claimed("gptq")), quantization_bit=4)
    notes = check_base_model(config, CPU, for_training=True)
    assert len(notes) == 1
    assert "quantization_bit is not read" in notes[0]


def test_older_folders_of_bitsandbytes_are_known(claimed: Any) -> None:
    assert stored_format(mark(claimed("gptq"), {"load_in_4bit": True})) == "bitsandbytes"
    assert stored_format(mark(claimed("awq"), {"bits": 4})) == "an unnamed method"


@pytest.mark.parametrize("bits", [4, 8])
def test_a_folder_saved_by_bitsandbytes_computes_as_the_model_that_was_saved(
    base: Path, tmp_path: Path, bits: int
) -> None:
    made = load_model(Config(model_name_or_path=str(base), quantization_bit=bits), dtype=torch.float32)
    made.save_pretrained(tmp_path / "packed")
    tiny_tokenizer(tmp_path / "packed")
    config = Config(model_name_or_path=str(tmp_path / "packed"))
    read = load_model(config, dtype=torch.float32)
    ids = {"input_ids": torch.arange(3, 40)[None], "document_bounds": ((0, 37),)}
    with torch.no_grad():
        assert torch.allclose(made(**ids).logits, read(**ids).logits, atol=1e-6)
    assert is_quantized(read)
    prepare_trainable(read, config, torch.float32)(**ids).logits.sum().backward()


def write_fp8(base: Path, folder: Path, block: int = 32) -> dict[str, torch.Tensor]:
    """The weights of `base` in blocks of 8-bit floats with a scale each; returns what they stand for."""
    tiny_model(folder)
    tensors, stands_for = {}, {}
    for name, weight in load_file(base / "model.safetensors").items():
        if weight.dim() != 2 or ".layers." not in name:
            tensors[name] = stands_for[name] = weight
            continue
        rows, columns = weight.shape
        blocks = weight.reshape(rows // block, block, columns // block, block)
        scale = blocks.abs().amax((1, 3)) / 448  # the largest number of e4m3
        packed = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        tensors[name], tensors[f"{name}_scale_inv"] = packed.reshape(rows, columns), scale
        stands_for[name] = (packed.float() * scale[:, None, :, None]).reshape(rows, columns)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    mark(folder, {"quant_method": "fp8", "weight_block_size": [block, block], "activation_scheme": "dynamic"})
    return stands_for


def test_fp8_weights_are_unpacked_and_may_be_trained_in_full(base: Path, tmp_path: Path) -> None:
    stands_for = write_fp8(base, tmp_path / "fp8")
    config = Config(model_name_or_path=str(tmp_path / "fp8"), finetuning_type="full")
    assert any("are unpacked" in note for note in check_base_model(config, CPU, for_training=True))
    model = load_model(config, dtype=torch.float32)
    state = model.state_dict()
    assert all(torch.allclose(state[name], weight, rtol=1e-6) for name, weight in stands_for.items())
    assert not is_quantized(model)
    model.save_pretrained(tmp_path / "plain")
    assert stored_format(tmp_path / "plain") is None


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_unpacking_is_asked_for_on_every_device(claimed: Any, method: str) -> None:
    """On a CPU transformers unpacks by itself; on a GPU it would keep the weights packed."""
    folder = claimed(method)
    config = Config(model_name_or_path=str(folder))
    plan = plan_loading(config, folder, torch.bfloat16, CPU, for_training=True)
    assert plan.arguments["quantization_config"].dequantize is True
    assert plan.arguments["quantization_config"].quant_method == method


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def test_mxfp4_experts_are_unpacked(tmp_path: Path) -> None:
    """Values and scales written by hand, after the OCP Microscaling specification: 32 numbers share a power of two."""
    from transformers import GptOssConfig, GptOssForCausalLM

    tiny_tokenizer(tmp_path)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_local_experts": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_experts_per_tok": 1}
    GptOssForCausalLM(GptOssConfig(vocab_size=512, pad_token_id=0, eos_token_id=2, **sizes, **heads)).save_pretrained(
        tmp_path
    )
    tensors, stands_for = {}, {}
    generator = torch.Generator().manual_seed(0)
    for name, weight in load_file(tmp_path / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = weight
            continue
        experts, inner, outer = weight.shape
        codes = torch.randint(0, 16, (experts, outer, inner // 32, 32), generator=generator)
        scales = torch.randint(120, 126, (experts, outer, inner // 32), generator=generator)
        values = torch.where(codes < 8, 1, -1) * FP4[codes % 8] * torch.exp2(scales[..., None] - 127.0)
        stands_for[name] = values.reshape(experts, outer, inner).transpose(1, 2)
        pairs = codes.reshape(experts, outer, inner // 32, 16, 2)
        tensors[f"{name}_blocks"] = (pairs[..., 0] | (pairs[..., 1] << 4)).to(torch.uint8)
        tensors[f"{name}_scales"] = scales.to(torch.uint8)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    mark(tmp_path, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]})
    state = load_model(Config(model_name_or_path=str(tmp_path)), dtype=torch.float32).state_dict()
    assert len(stands_for) == 2
    assert all(torch.equal(state[name], weight) for name, weight in stands_for.items())
