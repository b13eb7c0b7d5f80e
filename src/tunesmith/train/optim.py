"""The optimizer of a run, and its state as plain tensors for a checkpoint: the way in to train/optimizers/."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.config import Config
from tunesmith.config.arguments import split_arguments
from tunesmith.config.optimizers import optimizer_options, uses_apollo, uses_galore
from tunesmith.errors import ConfigError
from tunesmith.train.optimizers.catalog import make_plain
from tunesmith.train.optimizers.groups import Trained, trained_parameters
from tunesmith.train.optimizers.lowrank import make_low_rank
from tunesmith.train.optimizers.moments import before_last_backward, clip, settled_weights, updates_in_backward
from tunesmith.train.optimizers.require import check_optimizer
from tunesmith.train.optimizers.state import pack_state, unpack_state
from tunesmith.train.optimizers.whole import make_adam_mini, make_muon

__all__ = [
    "before_last_backward",
    "check_optimizer",
    "clip",
    "make_optimizer",
    "pack_state",
    "parse_optim_args",
    "settled_weights",
    "unpack_state",
    "updates_in_backward",
]

Say = Callable[[str], None]


def make_optimizer(
    model: nn.Module,
    config: Config,
    say: Say | None = None,
    own_rates: Sequence[tuple[Iterable[nn.Parameter], float]] = (),
) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters, as `optim` or a `use_*` key chooses it.

    Each of its groups carries `peak_lr`, which the schedule's factor multiplies.

    Args:
        say: where a line for the user goes.
        own_rates: parameters with a highest learning rate of their own, such as a value head's.

    Raises:
        ConfigError: `optim_args` or the settings of the optimizer do not fit it or the model.
    """
    optimizer_options(config)  # refused here, also by those that have none to read
    trained = trained_parameters(model, config, own_rates)
    if not trained:
        raise ConfigError("no weight of the model is trained", fix="look at `finetuning_type` and the freeze_* keys")
    return _maker(config)(trained, config, model, say or _silent)


def _silent(line: str) -> None:
    """Where nobody listens."""


def _maker(config: Config) -> Callable[[Sequence[Trained], Config, nn.Module, Say], torch.optim.Optimizer]:
    if uses_galore(config) or uses_apollo(config):
        return make_low_rank
    if config.use_badam:
        return _make_badam
    if config.use_adam_mini:
        return make_adam_mini
    if config.use_muon:
        return make_muon
    return make_plain


def _make_badam(trained: Sequence[Trained], config: Config, model: nn.Module, say: Say) -> torch.optim.Optimizer:
    if config.badam_mode == "layer":
        from tunesmith.train.optimizers.badam_layers import make_layer_blocks

        return make_layer_blocks(trained, config, say)
    from tunesmith.train.optimizers.badam_ratio import make_ratio_blocks

    return make_ratio_blocks(trained, config, say)


def parse_optim_args(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """`optim_args` by name: `momentum=0.9,nesterov=true`, or a mapping; `optimizer_options` gives them their types.

    Raises:
        ConfigError: an entry has no `=`.
    """
    return split_arguments("optim_args", given)
