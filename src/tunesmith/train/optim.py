"""Optimizers by the names of transformers' `optim`, and their state as plain tensors for a checkpoint."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ResumeError

# name -> "module:class", and whether Adam's keyword arguments apply
_OPTIMIZERS = {
    "adamw_torch": "torch.optim:AdamW",
    "adamw_torch_fused": "torch.optim:AdamW",
    "adafactor": "transformers.optimization:Adafactor",
    "sgd": "torch.optim:SGD",
    "adagrad": "torch.optim:Adagrad",
    "rmsprop": "torch.optim:RMSprop",
}


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters; weight decay spares biases and norms (1-D parameters).

    Raises:
        ConfigError: the optimizer is not known here, or `optim_args` holds something it does not take.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optim not in _OPTIMIZERS:
        raise ConfigError(f"`optim: {config.optim}` is not available", fix=f"choose one of {', '.join(_OPTIMIZERS)}")
    module, _, name = _OPTIMIZERS[config.optim].partition(":")
    factory = getattr(importlib.import_module(module), name)
    try:
        return factory(groups, lr=config.learning_rate, **_arguments(config))
    except (TypeError, ValueError) as err:
        raise ConfigError(
            f"`optim: {config.optim}` does not accept these settings: {err}", fix="correct `optim_args`"
        ) from err


def _arguments(config: Config) -> dict[str, Any]:
    """Keyword arguments of the chosen optimizer, `optim_args` on top."""
    if config.optim.startswith("adamw_torch"):
        arguments: dict[str, Any] = {
            "betas": (config.adam_beta1, config.adam_beta2),
            "eps": config.adam_epsilon,
            "fused": config.optim == "adamw_torch_fused",
        }
    elif config.optim == "adafactor":
        arguments = {"scale_parameter": False, "relative_step": False}
    else:
        arguments = {}
    return {**arguments, **parse_optim_args(config.optim_args)}


def parse_optim_args(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """`optim_args` as keyword arguments: `momentum=0.9,nesterov=true`, or a mapping.

    Raises:
        ConfigError: an entry has no `=`.
    """
    if not given:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    arguments = {}
    for entry in given.replace(" ", "").split(","):
        key, equals, value = entry.partition("=")
        if not equals:
            raise ConfigError(f"`optim_args`: '{entry}' is not key=value", fix="write `optim_args: momentum=0.9`")
        arguments[key] = _literal(value)
    return arguments


def _literal(text: str) -> bool | float | int | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def pack_state(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors by `parameter::key`, and its plain numbers by the same names.

    Args:
        names: id(parameter) -> name.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            place = f"{names[id(parameter)]}::{key}"
            if isinstance(value, Tensor):
                tensors[place] = value.detach().contiguous()
            else:
                numbers[place] = value
    return tensors, numbers


def unpack_state(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[tuple[str, nn.Parameter]],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Put a packed state back.

    Raises:
        ResumeError: the state belongs to other parameters.
    """
    by_name = dict(parameters)
    for place, value in {**tensors, **numbers}.items():
        name, _, key = place.rpartition("::")
        if name not in by_name:
            raise ResumeError(
                f"the checkpoint's optimizer knows a parameter that is not trained now: {name}",
                fix="resume with the settings that the run was started with, or set `overwrite_output_dir: true`",
            )
        parameter = by_name[name]
        if isinstance(value, Tensor) and value.ndim > 0:
            value = value.to(parameter.device)
        optimizer.state[parameter][key] = value.clone() if isinstance(value, Tensor) else value
