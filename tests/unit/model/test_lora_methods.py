"""LoRA's variants against their papers' formulas and PEFT's documented behaviour, each on the tiny model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from method_models import logits, made_ready, nudge, trainable
from peft import LoraConfig, TaskType, get_peft_model
from tests.tiny import tiny_model
from transformers import AutoModelForCausalLM

from tunesmith.errors import ConfigError

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("lora") / "model", num_layers=4)


def layer(model: Any, name: str = "model.layers.0.self_attn.q_proj") -> Any:
    return model.get_base_model().get_submodule(name)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({}, {}),
        ({"use_rslora": True}, {"use_rslora": True}),
        ({"use_dora": True}, {"use_dora": True}),
        ({"rank_pattern": {"q_proj": 2}}, {"rank_pattern": {"q_proj": 2}}),
        ({"lora_layers": "0,2-3"}, {"layers_to_transform": [0, 2, 3]}),
    ],
    ids=["plain", "rslora", "dora", "rank-pattern", "layers"],
)
def test_it_is_the_model_that_peft_makes(folder: Path, settings: dict[str, Any], theirs: dict[str, Any]) -> None:
    mine = made_ready(folder, **settings)
    base = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    reference = get_peft_model(
        base, LoraConfig(TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules=ALL_LINEAR, **theirs)
    ).eval()
    first, second = trainable(mine), trainable(reference)
    assert {name: p.shape for name, p in first.items()} == {name: p.shape for name, p in second.items()}
    for model in (mine, reference):
        nudge(model)
    assert torch.equal(logits(mine), logits(reference))


def test_rslora_scales_by_the_root_of_the_rank(folder: Path) -> None:
    assert layer(made_ready(folder, lora_rank=4, lora_alpha=6)).scaling["default"] == 6 / 4
    assert layer(made_ready(folder, lora_rank=4, lora_alpha=6, use_rslora=True)).scaling["default"] == 6 / math.sqrt(4)


def test_dora_learns_the_length_of_every_row_apart(folder: Path) -> None:
    """W' = m (W + s B A) / |W + s B A|, row by row (DoRA, equation 5)."""
    model = made_ready(folder, use_dora=True)
    before = layer(model).get_base_layer().weight.detach().clone()
    magnitude = layer(model).lora_magnitude_vector["default"].weight
    assert torch.allclose(magnitude, before.norm(dim=1), atol=1e-6)
    assert magnitude.requires_grad
    nudge(model)
    q_proj = layer(model)
    low_rank = q_proj.scaling["default"] * q_proj.lora_B["default"].weight @ q_proj.lora_A["default"].weight
    whole = before + low_rank
    expected = q_proj.lora_magnitude_vector["default"].weight[:, None] * whole / whole.norm(dim=1, keepdim=True)
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(q_proj(rows), rows @ expected.T, atol=1e-5)


def test_patterns_set_rank_and_scale_of_single_layers(folder: Path) -> None:
    pattern = {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 16}, "alpha_pattern": {"q_proj": 10}}
    model = made_ready(folder, **pattern)
    assert layer(model).r["default"] == 2
    assert layer(model).scaling["default"] == 10 / 2
    assert layer(model, "model.layers.1.mlp.up_proj").r["default"] == 16
    assert layer(model, "model.layers.2.mlp.up_proj").r["default"] == 4
    assert layer(model, "model.layers.2.mlp.up_proj").scaling["default"] == 8 / 4


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("0", {0}), ("-1", {3}), ("0-1,-1", {0, 1, 3}), ("-3--2", {1, 2}), ("1--2", {1, 2}), ("[0, 2]", {0, 2})],
)
def test_layer_ranges_count_from_either_end(folder: Path, wanted: str, expected: set[int]) -> None:
    names = trainable(made_ready(folder, lora_layers=wanted))
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in names} == expected


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"lora_target": "q_porj"}, ("lora_target", "q_porj", "Did you mean 'q_proj'?")),
        ({"additional_target": "embed_token"}, ("additional_target", "Did you mean 'embed_tokens'?")),
        ({"rank_pattern": {"q_porj": 2}}, ("rank_pattern", "q_porj", "Did you mean 'q_proj'?")),
        ({"alpha_pattern": {"q_proj": 0}}, ("alpha_pattern", "q_proj cannot be 0")),
        ({"rank_pattern": {"q_proj(": 2}}, ("rank_pattern", "no regular expression")),
        ({"lora_rank": 33}, ("rank 33", "k_proj", "64 x 32", "lora_rank to at most 32")),
        ({"rank_pattern": {"q_proj": 65}}, ("rank 65", "q_proj", "64 x 64")),
        ({"lora_layers": "4"}, ("lora_layers", "'4'", "4 layers", "from 0 to 3")),
        ({"lora_layers": "3-1"}, ("'3-1'", "ranges run upwards")),
        ({"lora_layers": "last"}, ("'last'", "neither a layer nor a range")),
    ],
)
def test_what_fits_nothing_is_named(folder: Path, settings: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        made_ready(folder, **settings)
    assert all(text in caught.value.render() for text in named)


def test_a_rank_of_the_whole_width_is_allowed(folder: Path) -> None:
    assert layer(made_ready(folder, lora_rank=32), "model.layers.0.self_attn.k_proj").r["default"] == 32
