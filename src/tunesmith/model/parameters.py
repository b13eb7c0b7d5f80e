"""Small choices about a model's parameters: norms in 32 bits, a list of all of them, random ones to start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig

from tunesmith.model.adapters import count_parameters

NORM_NAMES = ("norm", "ln")


def upcast_norms(model: nn.Module) -> int:
    """Keep one-dimensional parameters whose name has "norm" or "ln" in fp32. Returns how many changed.

    For `upcast_layernorm`: a norm's weight in bf16 has 8 significant bits, which its product is rounded by.
    """
    num_changed = 0
    for name, parameter in model.named_parameters():
        is_norm = parameter.ndim == 1 and any(part in name for part in NORM_NAMES)
        if is_norm and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
            num_changed += 1
    return num_changed


def parameter_lines(model: nn.Module) -> Iterator[str]:
    """One line per parameter for `print_param_status`: name, shape, type, device, whether it is trained."""
    for name, parameter in model.named_parameters():
        shape = "x".join(str(size) for size in parameter.shape) or "one number"
        dtype = str(parameter.dtype).removeprefix("torch.")
        yield f"{name}: {shape}, {dtype}, {parameter.device}, {'trained' if parameter.requires_grad else 'frozen'}"


def summary_lines(model: nn.Module, *, each: bool) -> Iterator[str]:
    """How much of a model is trained, for the user; `each`: and every parameter by itself."""
    num_trainable, num_all = count_parameters(model)
    share = 100 * num_trainable / num_all
    yield f"trainable params: {num_trainable:,} || all params: {num_all:,} || trainable%: {share:.4f}"
    if each:
        yield from parameter_lines(model)


def random_model(model_config: Any, folder: Path, *, seed: int, dtype: torch.dtype, attention: str) -> Any:
    """A model with random weights, as its configuration says, for `train_from_scratch`.

    The same seed gives the same weights, whatever random numbers were drawn before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            model_config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model
