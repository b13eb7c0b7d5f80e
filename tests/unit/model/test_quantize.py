"""Base models in few bits: close to the original, the same gradient as unpacked weights, and refused in time."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.quantized import unpacked_weight, with_plain_layers
from tests.tiny import tiny_model
from torch import nn

from tunesmith.config import Config
from tunesmith.errors import ModelError
from tunesmith.model.adapters import count_parameters, lora_targets, prepare_trainable
from tunesmith.model.load import check_base_model, load_model
from tunesmith.model.merge import merge_attached
from tunesmith.model.quantize import plan_loading, quantization_words
from tunesmith.model.quantized_layers import is_packed, is_quantized, packed_layers, prove_gradients, stored_bytes

CPU = torch.device("cpu")
# (method, bits) -> the largest relative error of a normal random matrix, Frobenius norm
METHODS: dict[tuple[str, int], float] = {
    ("bnb", 4): 0.10,
    ("bnb", 8): 0.01,
    ("hqq", 3): 0.25,
    ("hqq", 4): 0.12,
    ("hqq", 8): 0.01,
    ("torchao", 4): 0.12,
    ("torchao", 8): 0.01,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("quantize") / "base")


def settings(base: Path, method: str = "bnb", bits: int | None = 4, **more: Any) -> Config:
    return Config(model_name_or_path=str(base), quantization_method=method, quantization_bit=bits, **more)


def adapted(model: nn.Module) -> Any:
    """With a LoRA that has an effect, the same for the same layers."""
    result = prepare_trainable(model, Config(lora_target=("all",), lora_rank=4), torch.float32)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in result.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return result


def loss_and_gradients(model: Any) -> tuple[float, torch.Tensor]:
    ids = torch.arange(3, 67)[None]
    bounds = {"document_bounds": ((0, 64),)}
    with torch.no_grad():
        model.eval()(input_ids=ids, **bounds)  # as the proof of the scores and every evaluation do
    loss = model.train()(input_ids=ids, labels=ids, **bounds).loss
    loss.backward()
    grads = [p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None]
    return float(loss.detach()), torch.cat(grads)


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_every_linear_layer_but_the_head_is_packed_and_close_to_the_original(
    base: Path, method: str, bits: int
) -> None:
    plain = load_model(settings(base, bits=None), dtype=torch.float32)
    model = load_model(settings(base, method, bits), dtype=torch.float32)
    layers = dict(packed_layers(model))
    assert len(layers) == 2 * 7
    assert not any(is_packed(module) for module in (model.get_output_embeddings(), model.get_input_embeddings()))
    for name, layer in layers.items():
        original = plain.get_submodule(name).weight
        error = (unpacked_weight(layer) - original).norm() / original.norm()
        assert 1e-5 < error < METHODS[method, bits], name


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_adapters_get_the_gradient_that_unpacked_weights_would_give(base: Path, method: str, bits: int) -> None:
    model = load_model(settings(base, method, bits), dtype=torch.float32)
    loss, gradient = loss_and_gradients(adapted(with_plain_layers(model)))
    packed_loss, packed_gradient = loss_and_gradients(adapted(model))
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    assert gradient.norm() > 0.1
    assert (packed_gradient - gradient).norm() / gradient.norm() < 1e-5


@pytest.mark.parametrize("kind", ["rslora", "dora", "oft"])
@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_every_kind_of_adapter_gets_that_gradient(base: Path, method: str, bits: int, kind: str) -> None:
    from peft import LoraConfig, OFTConfig, get_peft_model

    targets = ["q_proj", "up_proj", "down_proj"]
    settings_of_kind: Any = {
        "rslora": LoraConfig(r=4, use_rslora=True, init_lora_weights=False, target_modules=targets),
        "dora": LoraConfig(r=4, use_dora=True, init_lora_weights=False, target_modules=targets),
        "oft": OFTConfig(oft_block_size=8, init_weights=False, target_modules=targets),
    }[kind]
    packed = load_model(settings(base, method, bits), dtype=torch.float32)
    sides = []
    for model in (with_plain_layers(packed), packed):
        torch.manual_seed(0)
        sides.append(loss_and_gradients(get_peft_model(model, copy.deepcopy(settings_of_kind))))
    (loss, gradient), (packed_loss, packed_gradient) = sides
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    assert (packed_gradient - gradient).norm() / gradient.norm() < 1e-5


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_evaluating_does_not_change_the_model(base: Path, method: str, bits: int) -> None:
    """bitsandbytes repacks 4-bit layers with coarser scales at the first evaluation, on some CPUs, when it may."""
    model = load_model(settings(base, method, bits), dtype=torch.bfloat16)
    ids = {"input_ids": torch.arange(3, 40)[None], "document_bounds": ((0, 37),)}
    with torch.no_grad():
        before = model.train()(**ids).logits
        evaluated = model.eval()(**ids).logits
        after = model.train()(**ids).logits
    assert torch.equal(before, evaluated)
    assert torch.equal(before, after)


def test_a_layer_that_loses_its_gradient_is_refused(base: Path) -> None:
    class Lossy(nn.Module):
        in_features = out_features = 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.detach() * 3).requires_grad_(True)

    class Halved(nn.Module):
        in_features = out_features = 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * (0.5 * x + 0.5 * x.detach())

    class Whole(nn.Module):
        in_features = out_features = 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * x

    assert prove_gradients(nn.Sequential(Whole()), torch.float32) == 1
    for layer in (Lossy(), Halved()):
        with pytest.raises(ModelError, match="no usable gradient"):
            prove_gradients(nn.Sequential(layer), torch.float32)


def test_one_layer_of_each_kind_and_shape_is_tried(base: Path) -> None:
    model = load_model(settings(base), dtype=torch.float32)
    assert prove_gradients(model, torch.float32) == 4  # q and o; k and v; gate and up; down


# One key flipped, one thing different


def test_the_method_decides_the_class_of_the_layers(base: Path) -> None:
    kinds = {
        method: type(next(packed_layers(load_model(settings(base, method, 8), dtype=torch.float32)))[1]).__name__
        for method in ("bnb", "hqq", "torchao")
    }
    assert kinds == {"bnb": "WeightOnlyInt8", "hqq": "HQQLinear", "torchao": "Linear"}


def test_fewer_bits_take_less_memory(base: Path) -> None:
    models = [load_model(settings(base, bits=bits), dtype=torch.float32) for bits in (None, 8, 4)]
    plain, eight, four = map(stored_bytes, models)
    assert plain == sum(t.numel() * t.element_size() for t in (*models[0].parameters(), *models[0].buffers()))
    in_layers = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    outside = plain - 4 * in_layers
    assert in_layers < eight - outside < 1.1 * in_layers  # a byte each, and a scale for every row
    assert in_layers / 2 < four - outside  # half a byte each, and the tables, which weigh much beside tiny layers
    assert four < eight + 14 * 4 * (256 + 16)


def test_the_type_decides_the_grid_of_four_bits(base: Path) -> None:
    nf4, fp4 = (
        unpacked_weight(next(packed_layers(load_model(settings(base, quantization_type=kind), dtype=torch.float32)))[1])
        for kind in ("nf4", "fp4")
    )
    assert not torch.equal(nf4, fp4)


def test_double_quantization_takes_less_for_the_scales(base: Path) -> None:
    scales = {}
    for flag in (True, False):
        model = load_model(settings(base, double_quantization=flag), dtype=torch.float32)
        states = [layer.weight.quant_state for _, layer in packed_layers(model)]
        assert {state.nested for state in states} == {flag}
        scales[flag] = sum(state.absmax.numel() * state.absmax.element_size() for state in states)
    assert scales[False] == 4 * scales[True] > 0


def test_the_device_map_reaches_the_loader(base: Path) -> None:
    spread = settings(base, quantization_device_map="auto")
    for config, expected in ((spread, "auto"), (settings(base), {"": "cpu"})):
        plan = plan_loading(config, base, torch.bfloat16, CPU, for_training=False)
        assert plan.arguments["device_map"] == expected
    assert any("no other device" in note for note in check_base_model(spread, CPU, for_training=False))
    assert is_quantized(load_model(spread, dtype=torch.bfloat16, for_training=False))


def test_everything_that_changes_the_numbers_is_in_the_words() -> None:
    words = {
        quantization_words(Config(**change))
        for change in (
            {},
            {"quantization_bit": 4},
            {"quantization_bit": 8},
            {"quantization_bit": 4, "quantization_type": "fp4"},
            {"quantization_bit": 4, "double_quantization": False},
            {"quantization_bit": 4, "quantization_method": "hqq"},
        )
    }
    assert len(words) == 6
    assert "" in words
    assert "4 bits (bnb nf4, double)" in words


# Counting and naming


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_packed_weights_are_counted_as_weights(base: Path, method: str, bits: int) -> None:
    plain = prepare_trainable(load_model(settings(base, bits=None), dtype=torch.float32), Config(), torch.float32)
    packed = prepare_trainable(load_model(settings(base, method, bits), dtype=torch.float32), Config(), torch.float32)
    assert count_parameters(packed) == count_parameters(plain)


def test_all_linear_layers_are_found_in_a_packed_model(base: Path) -> None:
    plain = lora_targets(load_model(settings(base, bits=None), dtype=torch.float32), ["all"])
    assert plain == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    for method in ("bnb", "hqq", "torchao"):
        assert lora_targets(load_model(settings(base, method, 4), dtype=torch.float32), ["all"]) == plain


@pytest.mark.parametrize("method", ["bnb", "hqq", "torchao"])
def test_nothing_is_merged_into_packed_weights(base: Path, method: str) -> None:
    model = adapted(load_model(settings(base, method, 4), dtype=torch.float32))
    with pytest.raises(ModelError, match="weights of the base are quantized") as caught:
        merge_attached(model)
    assert "unquantized model" in caught.value.fix


# What is not there is said before weights are read


@pytest.mark.parametrize("method", ["bnb", "hqq", "torchao"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    base: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = {"bnb": "bitsandbytes"}.get(method, method)
    original = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return original(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ModelError, match=f"needs the package {package}, which is not installed") as caught:
        check_base_model(settings(base, method, 4), CPU, for_training=True)
    assert caught.value.fix == "pip install 'tunesmith[quantization]'"


def test_a_package_that_cannot_be_imported_says_why(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, *rest: Any) -> Any:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModelError, match="cannot be imported") as caught:
        check_base_model(settings(base), CPU, for_training=True)
    assert "libcudart" in caught.value.why


@pytest.mark.parametrize(
    ("method", "bits", "words"),
    [
        ("torchao", 4, "kept in a byte each"),
        ("hqq", 4, "searches the scales"),
        ("hqq", 5, "5 bits: weights are kept a byte each"),
        ("hqq", 3, "3 bits: weights are kept ten to four bytes"),
        ("bnb", 8, "activations are not"),
    ],
)
def test_what_a_method_does_otherwise_than_its_name_says_is_noted(
    base: Path, method: str, bits: int, words: str
) -> None:
    assert any(words in note for note in check_base_model(settings(base, method, bits), CPU, for_training=True))


def test_plain_four_bits_need_no_note(base: Path) -> None:
    assert check_base_model(settings(base), CPU, for_training=True) == []
    assert check_base_model(settings(base, bits=None), CPU, for_training=True) == []
