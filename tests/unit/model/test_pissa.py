"""PiSSA: nothing changes at the start, the principal part learns, and what is saved fits the original base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from method_models import logits, made_ready, nudge
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tests.tiny import tiny_model
from transformers import AutoModelForCausalLM

from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.adapters import restore_adapter
from tunesmith.model.methods.pissa import find_start, write_conversion
from tunesmith.model.save import save_weights

EXACT = {"pissa_init": True, "pissa_iter": -1}
Q_PROJ = "model.layers.1.self_attn.q_proj"
VARIANTS: dict[str, dict[str, Any]] = {
    "exact": EXACT,
    "fast": {"pissa_init": True},
    "rslora": {**EXACT, "use_rslora": True},
    "patterns": {**EXACT, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"up_proj": 3}},
    "layers": {**EXACT, "lora_layers": "-1"},
    "embeddings": {**EXACT, "additional_target": "embed_tokens"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("pissa") / "model")


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_function_is_unchanged_at_the_start(folder: Path, name: str) -> None:
    assert torch.allclose(logits(made_ready(folder, **VARIANTS[name])), logits(plain(folder)), atol=1e-5)


def test_residual_and_adapter_add_up_and_the_adapter_holds_the_largest_singular_values(folder: Path) -> None:
    layer = made_ready(folder, **EXACT).get_base_model().get_submodule(Q_PROJ)
    weight = plain(folder).get_submodule(Q_PROJ).weight.detach()
    part = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.allclose(layer.get_base_layer().weight + part, weight, atol=1e-6)
    singular = torch.linalg.svdvals(weight)
    assert torch.allclose(torch.linalg.svdvals(part.detach())[:4], singular[:4], atol=1e-5)
    assert torch.allclose(torch.linalg.svdvals(layer.get_base_layer().weight)[:8], singular[4:12], atol=1e-5)


def test_it_is_the_start_that_peft_computes(folder: Path) -> None:
    mine = made_ready(folder, **EXACT)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="pissa")
    theirs = get_peft_model(plain(folder), config)
    for name, parameter in theirs.named_parameters():
        if "base_layer" in name:
            own = mine.get_parameter(name)
            assert torch.allclose(own, parameter, atol=1e-6), name


def test_more_iterations_come_nearer_to_the_exact_decomposition(folder: Path) -> None:
    def distance(iterations: int) -> float:
        layers = [
            made_ready(folder, pissa_init=True, pissa_iter=n).get_base_model().get_submodule(Q_PROJ)
            for n in (iterations, -1)
        ]
        first, second = (layer.get_base_layer().weight for layer in layers)
        return float((first - second).norm())

    assert distance(0) > distance(4) > distance(32)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_saved_adapter_does_to_the_original_base_what_training_did(folder: Path, tmp_path: Path, name: str) -> None:
    model = made_ready(folder, **VARIANTS[name])
    nudge(model)
    trained = logits(model)
    assert (trained - logits(plain(folder))).abs().max() > 0.1
    save_weights(model, tmp_path)
    loaded = PeftModel.from_pretrained(plain(folder), str(tmp_path)).eval()
    assert torch.allclose(logits(loaded), trained, atol=1e-5)
    assert torch.allclose(logits(loaded.merge_and_unload()), trained, atol=1e-5)


def test_the_conversion_writes_start_training_and_ordinary_adapter(folder: Path, tmp_path: Path) -> None:
    model = made_ready(folder, **EXACT)
    start = logits(model)
    nudge(model)
    trained = logits(model)
    write_conversion(model, tmp_path)
    ranks = {
        name: json.loads((tmp_path / name / "adapter_config.json").read_text())["r"]
        for name in ("pissa_init", "pissa_backup", "pissa_converted")
    }
    assert ranks == {"pissa_init": 4, "pissa_backup": 4, "pissa_converted": 8}
    merged = PeftModel.from_pretrained(plain(folder), str(tmp_path / "pissa_converted")).merge_and_unload()
    assert torch.allclose(logits(merged), trained, atol=1e-5)
    for name, expected in (("pissa_init", start), ("pissa_backup", trained)):
        residual = _residual_base(folder, tmp_path / "pissa_init")
        assert torch.allclose(
            logits(PeftModel.from_pretrained(residual, str(tmp_path / name)).eval()), expected, atol=1e-5
        )


def _residual_base(folder: Path, start: Path) -> Any:
    """What the two PiSSA folders belong to: the base without its principal part."""
    base, tensors = plain(folder), load_file(start / "adapter_model.safetensors")
    with torch.no_grad():
        for name in [name for name in tensors if name.endswith("lora_A.weight")]:
            module = base.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            module.weight -= 2.0 * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    return base


def test_a_checkpoint_brings_back_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    model = made_ready(folder, pissa_init=True)
    nudge(model)
    save_weights(model, tmp_path)
    again = made_ready(folder, pissa_init=True)
    restore_adapter(again, tmp_path)
    for (name, first), (_, second) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(first, second), name


def test_a_start_from_another_machine_is_followed(folder: Path, tmp_path: Path) -> None:
    """The stored start decides: another decomposition of the same weights gives way to it."""
    model = made_ready(folder, pissa_init=True, pissa_iter=0)
    nudge(model)
    save_weights(model, tmp_path)
    again = made_ready(folder, **EXACT)
    restore_adapter(again, tmp_path)
    assert torch.allclose(logits(again), logits(model), atol=1e-5)
    start, stored = find_start(again), find_start(model)
    assert start is not None
    assert stored is not None
    assert all(torch.equal(a, b) for a, b in zip(start.of(Q_PROJ), stored.of(Q_PROJ), strict=True))


def test_an_ordinary_adapter_is_no_checkpoint_of_it(folder: Path, tmp_path: Path) -> None:
    save_weights(made_ready(folder), tmp_path)
    with pytest.raises(ModelError, match="does not hold a PiSSA start"):
        restore_adapter(made_ready(folder, **EXACT), tmp_path)


def test_it_does_not_change_an_embedding(folder: Path) -> None:
    with pytest.raises(ConfigError, match="lm_head"):
        made_ready(folder, **EXACT, lora_target="q_proj,lm_head")


def test_a_quantized_model_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.model.methods.prepare.is_quantized", lambda model: True)
    with pytest.raises(ConfigError, match="pissa_init"):
        made_ready(folder, **EXACT)
