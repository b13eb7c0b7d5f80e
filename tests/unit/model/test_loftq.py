"""LoftQ: quantized values and adapter together are nearer to the weights than quantized values alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from method_models import logits, made_ready
from tests.tiny import tiny_model
from transformers import AutoModelForCausalLM

from tunesmith.errors import ModelError
from tunesmith.model.methods import loftq
from tunesmith.model.methods.loftq import alternate, largest_part, rounded

Q_PROJ = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("loftq") / "model")


def weight(seed: int = 0) -> torch.Tensor:
    return torch.randn(96, 80, generator=torch.Generator().manual_seed(seed))


def test_four_bits_are_the_values_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    for matrix in (weight()[:, :64], weight()[:5, :13], torch.zeros(4, 64)):  # it is right on CPUs in whole blocks only
        packed, state = functional.quantize_4bit(matrix, quant_type="nf4", blocksize=64)
        assert torch.equal(rounded(matrix, 4), functional.dequantize_4bit(packed, state))


def test_eight_bits_are_255_values_per_row() -> None:
    matrix = weight()
    held = rounded(matrix, 8)
    steps = matrix.abs().amax(1, keepdim=True) / 127
    assert torch.allclose(held / steps, (held / steps).round(), atol=1e-3)
    assert (matrix - held).abs().le(steps / 2 + 1e-6).all()


def test_the_adapter_holds_the_largest_part_of_the_error() -> None:
    """Eckart-Young: what is left are the singular values beyond the rank."""
    error = weight() - rounded(weight(), 4)
    first, second = largest_part(error, 6)
    singular = torch.linalg.svdvals(error)
    assert torch.allclose(torch.linalg.svdvals(error - second @ first)[:10], singular[6:16], atol=1e-4)


@pytest.mark.parametrize("num_bits", [4, 8])
def test_each_iteration_comes_nearer(num_bits: int) -> None:
    def distance(iterations: int) -> float:
        held, first, second = alternate(weight(), num_bits, 8, iterations)
        return float((weight() - held - second @ first).norm())

    alone = float((weight() - rounded(weight(), num_bits)).norm())
    assert alone > distance(1) > distance(2) > distance(5)


@pytest.mark.parametrize("settings", [{}, {"loftq_bits": 8}, {"use_rslora": True, "lora_alpha": 3}], ids=str)
def test_base_and_adapter_are_near_the_model_that_was_loaded(folder: Path, settings: dict[str, Any]) -> None:
    original = AutoModelForCausalLM.from_pretrained(folder).eval()
    model = made_ready(folder, loftq_init=True, **settings)
    layer, whole = model.get_base_model().get_submodule(Q_PROJ), original.get_submodule(Q_PROJ).weight
    held = layer.get_base_layer().weight
    part = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.equal(held, rounded(whole.detach(), settings.get("loftq_bits", 4)))
    assert (whole - held - part).norm() < 0.95 * (whole - held).norm()
    with model.disable_adapter():
        without = logits(model)
    assert (logits(model) - logits(original)).norm() < (without - logits(original)).norm()


def test_a_quantized_base_keeps_its_values_and_the_adapter_makes_up_for_them(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model
    from transformers import BitsAndBytesConfig

    from tunesmith.config import Config

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "up_proj"]))
    held = [buffer.clone() for name, buffer in base.state_dict().items() if name.endswith("base_layer.weight")]
    loftq.begin(model, Config(quantization_bit=4, loftq_init=True), folder)
    after = [buffer for name, buffer in base.state_dict().items() if name.endswith("base_layer.weight")]
    assert len(held) == 4
    assert all(torch.equal(a, b) for a, b in zip(held, after, strict=True))
    original = logits(AutoModelForCausalLM.from_pretrained(folder).eval())
    together = logits(model.eval())
    with model.disable_adapter():
        assert (together - original).norm() < (logits(model) - original).norm()


def test_without_the_original_weights_it_says_which(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"has no model\.layers\.9\.weight"):
        loftq._original(folder, "model.layers.9.weight")
