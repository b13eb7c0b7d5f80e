"""Random weights follow their seed alone, norms are the parameters that are widened, and a listing names everything."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.tiny import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.config import Config
from tunesmith.model.load import load_model
from tunesmith.model.parameters import parameter_lines, upcast_norms


def _random(folder: Path, seed: int) -> dict[str, torch.Tensor]:
    config = Config(model_name_or_path=str(folder), train_from_scratch=True, seed=seed)
    return load_model(config, dtype=torch.float32).state_dict()


def test_random_weights_do_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    first = _random(tmp_path, 1)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second, other = _random(tmp_path, 1), _random(tmp_path, 2)
    assert torch.equal(torch.get_rng_state(), state), "nor do later draws depend on them"
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


def test_inference_never_starts_from_random_weights(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    config = Config(model_name_or_path=str(tmp_path), train_from_scratch=True)
    loaded = load_model(config, dtype=torch.float32, for_training=False).state_dict()
    stored = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)


def test_norms_alone_are_widened(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model(tmp_path)), dtype=torch.bfloat16)
    assert upcast_norms(model) == 5
    wide = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert len(wide) == 5
    assert all("norm" in name for name in wide)
    assert upcast_norms(model) == 0
    lines = list(parameter_lines(model))
    assert len(lines) == sum(1 for _ in model.parameters())
    assert "model.norm.weight: 64, float32, cpu, trained" in lines
