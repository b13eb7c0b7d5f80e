"""The learning-rate schedules by name, and what `lr_scheduler_kwargs` may hold for each.

Names, entries and defaults are those of transformers' `get_scheduler`; the formulas are in train/schedule.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.config.arguments import Argument, read_arguments
from tunesmith.errors import ConfigError

_CYCLES = Argument("float", gt=0)
_SHAPES = ("linear", "cosine", "1-sqrt")
_FLOOR = {"min_lr": Argument("float", ge=0), "min_lr_rate": Argument("float", ge=0, le=1)}
_WATCHING = {
    "mode": Argument("str", choices=("min", "max")),
    "factor": Argument("float", gt=0, lt=1),
    "patience": Argument("int", ge=0),
    "threshold": Argument("float", ge=0),
    "threshold_mode": Argument("str", choices=("rel", "abs")),
    "cooldown": Argument("int", ge=0),
    "min_lr": Argument("float", ge=0),
    "eps": Argument("float", ge=0),
}

SCHEDULES: Mapping[str, Mapping[str, Argument]] = {
    "linear": {},
    "cosine": {"num_cycles": _CYCLES},
    "cosine_with_restarts": {"num_cycles": Argument("int", ge=1)},
    "polynomial": {"lr_end": Argument("float", ge=0), "power": Argument("float", gt=0)},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {"timescale": Argument("int", ge=1)},
    "reduce_lr_on_plateau": _WATCHING,
    "cosine_with_min_lr": {"num_cycles": _CYCLES, **_FLOOR},
    "cosine_warmup_with_min_lr": {"num_cycles": _CYCLES, **_FLOOR, "warmup_lr_rate": Argument("float", ge=0, le=1)},
    "warmup_stable_decay": {
        "num_stable_steps": Argument("int", ge=0),
        "num_decay_steps": Argument("int", ge=0),
        "warmup_type": Argument("str", choices=_SHAPES),
        "decay_type": Argument("str", choices=_SHAPES),
        "min_lr_ratio": Argument("float", ge=0, le=1),
        "num_cycles": _CYCLES,
    },
    "greedy": {
        **_WATCHING,
        "warmup": Argument("int", ge=0),
        "max_lr": Argument("float", gt=0),
        "smooth": Argument("bool"),
        "window_size": Argument("int", ge=1),
        "reset_start": Argument("int", ge=0),
    },
}
"""name -> the entries of `lr_scheduler_kwargs`."""

WATCHING = ("reduce_lr_on_plateau", "greedy")
"""Schedules that follow the evaluations."""


def schedule_options(name: str, given: Mapping[str, Any] | None, learning_rate: float) -> dict[str, Any]:
    """`lr_scheduler_kwargs` of a schedule, in their types.

    Raises:
        ConfigError: an entry that the schedule does not have, of the wrong type, or that contradicts another.
    """
    options = read_arguments("lr_scheduler_kwargs", f"lr_scheduler_type {name}", given or {}, SCHEDULES[name])
    if name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        _check_floor(name, options)
    if name == "polynomial" and options.get("lr_end", 1e-7) >= learning_rate > 0:
        raise ConfigError(
            f"`lr_scheduler_kwargs`: lr_end ({options.get('lr_end', 1e-7):g}) is not below "
            f"`learning_rate` ({learning_rate:g})",
            fix="set lr_end below learning_rate",
        )
    if name == "greedy":
        _check_range(options, learning_rate)
    return options


def _check_range(options: Mapping[str, Any], learning_rate: float) -> None:
    """The range of `greedy`: its own default reaches from 0.001 to 1, where few trainings survive."""
    low, high = options.get("min_lr", 1e-3), options.get("max_lr", 1.0)
    if not low < learning_rate < high:
        raise ConfigError(
            f"`lr_scheduler_kwargs`: greedy moves between min_lr ({low:g}) and max_lr ({high:g}), and "
            f"`learning_rate` ({learning_rate:g}) is not between them",
            fix="set `lr_scheduler_kwargs: {min_lr: ..., max_lr: ...}` around learning_rate",
        )


def _check_floor(name: str, options: Mapping[str, Any]) -> None:
    given = [key for key in _FLOOR if key in options]
    if not given:
        raise ConfigError(
            f"`lr_scheduler_type: {name}` needs to know the lowest learning rate",
            fix="set `lr_scheduler_kwargs: {min_lr_rate: 0.1}` (a fraction of learning_rate) or `{min_lr: 1e-6}`",
        )
    if len(given) == 2:
        raise ConfigError(
            "`lr_scheduler_kwargs`: min_lr and min_lr_rate are both set, and say the same thing in two ways",
            fix="keep one of them",
        )
