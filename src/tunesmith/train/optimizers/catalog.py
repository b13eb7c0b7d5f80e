"""The plain optimizers: from a name of `optim` to an instance of torch's, transformers' or a package's class."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.config import Config
from tunesmith.config.optimizers import optimizer_options
from tunesmith.errors import ConfigError
from tunesmith.train.optimizers.combined import Combined
from tunesmith.train.optimizers.groups import Trained, param_groups

CLASSES: Mapping[str, str] = {
    "adamw_torch": "torch.optim:AdamW",
    "adamw_torch_fused": "torch.optim:AdamW",
    "adafactor": "transformers.optimization:Adafactor",
    "sgd": "torch.optim:SGD",
    "adagrad": "torch.optim:Adagrad",
    "rmsprop": "torch.optim:RMSprop",
    "adamw_torch_4bit": "tunesmith.train.optimizers.torchao:AdamW4bit",
    "adamw_torch_8bit": "tunesmith.train.optimizers.torchao:AdamW8bit",
    "adamw_bnb_8bit": "bitsandbytes.optim:AdamW",
    "adamw_8bit": "bitsandbytes.optim:AdamW",
    "paged_adamw_32bit": "bitsandbytes.optim:AdamW",
    "paged_adamw_8bit": "bitsandbytes.optim:AdamW",
    "lion_32bit": "bitsandbytes.optim:Lion",
    "lion_8bit": "bitsandbytes.optim:Lion",
    "paged_lion_32bit": "bitsandbytes.optim:Lion",
    "paged_lion_8bit": "bitsandbytes.optim:Lion",
    "ademamix": "bitsandbytes.optim:AdEMAMix",
    "ademamix_8bit": "bitsandbytes.optim:AdEMAMix",
    "paged_ademamix_32bit": "bitsandbytes.optim:AdEMAMix",
    "paged_ademamix_8bit": "bitsandbytes.optim:AdEMAMix",
    "rmsprop_bnb": "bitsandbytes.optim:RMSprop",
    "rmsprop_bnb_8bit": "bitsandbytes.optim:RMSprop",
    "rmsprop_bnb_32bit": "bitsandbytes.optim:RMSprop",
    "schedule_free_adamw": "schedulefree:AdamWScheduleFree",
    "schedule_free_sgd": "schedulefree:SGDScheduleFree",
    "schedule_free_radam": "schedulefree:RAdamScheduleFree",
    "stable_adamw": "optimi:StableAdamW",
    "grokadamw": "grokadamw:GrokAdamW",
}


def is_bitsandbytes(name: str) -> bool:
    """Whether `optim: name` is one of bitsandbytes' optimizers."""
    return CLASSES.get(name, "").startswith("bitsandbytes")


def load_class(place: str) -> Any:
    """The class at "module:name". What the package does to logging while it is imported is undone."""
    if place.startswith("grokadamw"):
        warnings.filterwarnings("ignore", message=r"`torch\.cuda\.amp\.autocast|CUDA is not available or torch_xla")
    module, _, name = place.partition(":")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded = importlib.import_module(module)
    root.handlers[:] = handlers
    root.setLevel(level)
    return getattr(loaded, name)


def construct(place: str, groups: Sequence[Any], what: str, **arguments: Any) -> torch.optim.Optimizer:
    """An optimizer over the groups.

    Raises:
        ConfigError: the class does not take these values.
    """
    try:
        return load_class(place)(groups, **arguments)
    except (TypeError, ValueError, NotImplementedError) as err:
        raise ConfigError(f"`{what}` does not accept these settings: {err}", fix="correct `optim_args`") from err


def make_plain(
    trained: Sequence[Trained], config: Config, model: nn.Module, say: Callable[[str], None]
) -> torch.optim.Optimizer:
    """The optimizer that `optim` names, over the parameters."""
    name = config.optim
    arguments = {"lr": config.learning_rate, **plain_arguments(config)}
    if trained[0].parameter.device.type == "cpu" and "is_paged" in arguments:
        arguments["is_paged"] = False  # require.py has said so
    if not is_bitsandbytes(name) or arguments["optim_bits"] != 8:
        optimizer = construct(CLASSES[name], param_groups(trained, config.weight_decay), f"optim: {name}", **arguments)
        if hasattr(optimizer, "train"):  # schedule-free: the weights that are trained, not their average
            optimizer.train()
        return optimizer
    return _with_wide_embeddings(trained, config, model, arguments)


def _with_wide_embeddings(
    trained: Sequence[Trained], config: Config, model: nn.Module, arguments: dict[str, Any]
) -> torch.optim.Optimizer:
    """8-bit states, but 32-bit ones for embedding tables, whose gradients are too uneven for blocks of 256."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    narrow = [one for one in trained if id(one.parameter) not in tables]
    wide = [one for one in trained if id(one.parameter) in tables]
    parts = [
        construct(
            CLASSES[config.optim],
            param_groups(some, config.weight_decay),
            f"optim: {config.optim}",
            **{**arguments, "optim_bits": bits},
        )
        for some, bits in ((narrow, 8), (wide, 32))
        if some
    ]
    return parts[0] if len(parts) == 1 else Combined(parts)


def plain_arguments(config: Config) -> dict[str, Any]:
    """Keyword arguments of the class that `optim` names: the `adam_*` keys where they apply, `optim_args` on top."""
    name, options = config.optim, optimizer_options(config)
    betas = (config.adam_beta1, config.adam_beta2)
    adam = {"betas": betas, "eps": config.adam_epsilon}
    if is_bitsandbytes(name):
        return {**_bitsandbytes_arguments(name, config, options), "optim_bits": 8 if "8bit" in name else 32}
    if name == "adafactor":
        return {"scale_parameter": False, "relative_step": False, **options}
    if name.startswith("schedule_free_"):
        warms_up = name != "schedule_free_radam" and config.lr_scheduler_type == "constant"
        warmup = {"warmup_steps": int(config.warmup_steps)} if warms_up else {}
        return {**({} if name == "schedule_free_sgd" else adam), **warmup, **options}
    if name.startswith("adamw_torch") and name not in ("adamw_torch_4bit", "adamw_torch_8bit"):
        return {**adam, "fused": name == "adamw_torch_fused", **options}
    if name in ("adamw_torch_4bit", "adamw_torch_8bit"):
        return {**adam, "block_size": 256, **options}
    if name in ("stable_adamw", "grokadamw"):
        return {**adam, **options}
    return options


def _bitsandbytes_arguments(name: str, config: Config, options: dict[str, Any]) -> dict[str, Any]:
    betas = (config.adam_beta1, config.adam_beta2)
    if "rmsprop" in name:
        return options
    paged = {"is_paged": name.startswith("paged_")}
    if "lion" in name:
        return {"betas": betas, **paged, **options}
    if "ademamix" in name:
        beta3 = options.pop("beta3", 0.9999)
        return {"betas": (*betas, beta3), "eps": config.adam_epsilon, **paged, **options}
    return {"betas": betas, "eps": config.adam_epsilon, **paged, **options}
