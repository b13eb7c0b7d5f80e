"""A tiny model, a fixed batch and every optimizer: what the optimizer tests have in common."""

from __future__ import annotations

import importlib.util
import json
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.config import Config
from tunesmith.train.optim import before_last_backward, clip, make_optimizer, pack_state, settled_weights, unpack_state

LR = 2e-3
LOW_RANK = {"optim_target_modules": ("all-linear",), "optim_args": "rank=8,update_proj_gap=3"}
PLAIN: dict[str, dict[str, Any]] = {
    "adamw_torch": {},
    "adamw_torch_fused": {},
    "adafactor": {},
    "sgd": {"optim_args": "momentum=0.9,nesterov=true"},
    "adagrad": {"optim_args": "lr_decay=0.01"},
    "rmsprop": {"optim_args": "momentum=0.5,centered=true"},
    "adamw_torch_4bit": {},
    "adamw_torch_8bit": {},
    "adamw_bnb_8bit": {},
    "adamw_8bit": {},
    "paged_adamw_32bit": {},
    "paged_adamw_8bit": {},
    "lion_32bit": {},
    "lion_8bit": {},
    "paged_lion_32bit": {},
    "paged_lion_8bit": {},
    "ademamix": {"optim_args": "beta3=0.99,alpha=2,t_alpha=4,t_beta3=4"},
    "ademamix_8bit": {},
    "paged_ademamix_32bit": {},
    "paged_ademamix_8bit": {},
    "rmsprop_bnb": {},
    "rmsprop_bnb_8bit": {},
    "rmsprop_bnb_32bit": {},
    "schedule_free_adamw": {"lr_scheduler_type": "constant", "warmup_steps": 3},
    "schedule_free_sgd": {"lr_scheduler_type": "constant"},
    "schedule_free_radam": {"lr_scheduler_type": "constant"},
    "stable_adamw": {},
    "grokadamw": {},
    "galore_adamw": LOW_RANK,
    "galore_adamw_layerwise": LOW_RANK,
    "galore_adamw_8bit": LOW_RANK,
    "galore_adamw_8bit_layerwise": LOW_RANK,
    "galore_adafactor": LOW_RANK,
    "galore_adafactor_layerwise": LOW_RANK,
    "apollo_adamw": LOW_RANK,
    "apollo_adamw_layerwise": LOW_RANK,
}
"""`optim` -> the settings it is tried with."""

_GALORE = {"use_galore": True, "galore_rank": 8, "galore_update_interval": 3}
_APOLLO = {"use_apollo": True, "apollo_rank": 8, "apollo_update_interval": 3}
SPECIAL: dict[str, dict[str, Any]] = {
    "galore": _GALORE,
    "galore full": {**_GALORE, "galore_proj_type": "full"},
    "galore reverse_std": {**_GALORE, "galore_proj_type": "reverse_std"},
    "galore layer-wise": {**_GALORE, "galore_layerwise": True},
    "galore adafactor": {**_GALORE, "optim": "adafactor"},
    "galore 8 bit": {**_GALORE, "optim": "adamw_8bit"},
    "apollo": _APOLLO,
    "apollo svd tensor": {**_APOLLO, "apollo_proj": "svd", "apollo_scale_type": "tensor"},
    "apollo layer-wise": {**_APOLLO, "apollo_layerwise": True},
    # 4: a break after 5 steps is in the middle of a block; 1: a new order of the layers is drawn behind the break
    "badam layers": {"use_badam": True, "badam_switch_interval": 4},
    "badam random layers": {"use_badam": True, "badam_switch_interval": 1, "badam_switch_mode": "random"},
    "badam layers sgd": {"use_badam": True, "badam_switch_interval": 4, "optim": "sgd", "optim_args": "momentum=0.9"},
    "badam ratio": {"use_badam": True, "badam_mode": "ratio", "badam_switch_interval": 3},
    "badam scattered": {"use_badam": True, "badam_mode": "ratio", "badam_mask_mode": "scatter"},
    "adam-mini": {"use_adam_mini": True},
    "muon": {"use_muon": True},
}
"""The optimizers of the `use_*` keys."""

_PACKAGES = {"schedule_free": "schedulefree", "stable_adamw": "optimi", "grokadamw": "grokadamw"}


def needs_package(name: str) -> None:
    """Skip where an optional package is not installed."""
    for start, package in _PACKAGES.items():
        if name.startswith(start) and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def settings(**given: Any) -> Config:
    """A configuration of full training."""
    return replace(Config(), **{"finetuning_type": "full", "learning_rate": LR, **given})


@lru_cache
def _weights(head_dim: int | None) -> tuple[Any, dict[str, torch.Tensor]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
        **({"head_dim": head_dim} if head_dim else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return config, LlamaForCausalLM(config).state_dict()


def model(dtype: torch.dtype = torch.float32, head_dim: int | None = None) -> Any:
    """A fresh copy of one and the same random Llama."""
    from transformers import LlamaForCausalLM

    config, weights = _weights(head_dim)
    made = LlamaForCausalLM(deepcopy(config))
    made.load_state_dict(weights)
    return made.to(dtype)


def loss_of(network: Any, step: int, part: int = 0) -> torch.Tensor:
    """The loss on the rows of a step; `part` 0 or 1 are two halves of its batch."""
    generator = torch.Generator().manual_seed(100 * step + part)
    ids_BT = torch.randint(0, 128, (2, 12), generator=generator)
    return network(input_ids=ids_BT, labels=ids_BT).loss


def take_steps(
    network: Any, optimizer: torch.optim.Optimizer, steps: range, *, parts: int = 1, limit: float = float("inf")
) -> list[float]:
    """Walk as the loop does, with a learning rate that changes from step to step. Returns the gradient norms."""
    norms = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate(step)
        for part in range(parts):
            if part == parts - 1:
                before_last_backward(optimizer)
            (loss_of(network, step, part) / parts).backward()
        norms.append(clip(optimizer, list(network.parameters()), limit))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norms


def rate(step: int) -> float:
    """The factor on the learning rate at a step."""
    return 1.0 if step % 2 else 0.7


def reference_steps(network: Any, optimizer: Any, steps: range, learning_rate: float = LR) -> None:
    """The same walk with a package's optimizer used directly."""
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate(step)
        loss_of(network, step).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def through_a_file(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The packed state as a checkpoint stores it."""
    names = {id(p): name for name, p in network.named_parameters()}
    tensors, numbers = pack_state(optimizer, names)
    save_file(tensors, folder / "optimizer.safetensors")
    return load_file(folder / "optimizer.safetensors"), json.loads(json.dumps(numbers))


def resumed(folder: Path, network: Any, optimizer: torch.optim.Optimizer, config: Config) -> tuple[Any, Any]:
    """A new model and optimizer that stand where the given ones stand, by way of files."""
    with settled_weights(optimizer):  # as a checkpoint takes them
        weights = {key: value.clone() for key, value in network.state_dict().items()}
    tensors, numbers = through_a_file(folder, network, optimizer)
    fresh = model(next(network.parameters()).dtype)
    fresh.load_state_dict(weights)
    again = make_optimizer(fresh, config)
    unpack_state(again, fresh.named_parameters(), tensors, numbers)
    return fresh, again


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    """Over all weights of two models of one shape."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a.detach().float() - b.detach().float()).abs().max()) for a, b in pairs)
