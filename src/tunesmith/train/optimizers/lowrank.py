"""GaLore and APOLLO: the optimizer's state lives in a low-rank space of the gradients of chosen matrices.

GaLore (Zhao et al., arXiv 2403.03507) projects the gradient, lets Adam or Adafactor act there and projects the update
back. APOLLO (Zhu et al., arXiv 2412.05270) only estimates there how Adam would scale each channel of the gradient.
Both classes are their packages' own. A rank above the smaller side of a matrix means that side: the projection is
then a rotation. `std` is resolved to `left` or `right` per matrix, which is the same and leaves no shape to guess from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tunesmith.config import Config
from tunesmith.config.optimizers import is_layerwise, optimizer_options, uses_galore
from tunesmith.errors import ConfigError, nearest
from tunesmith.train.optimizers.catalog import construct
from tunesmith.train.optimizers.groups import Trained, output_head, param_groups
from tunesmith.train.optimizers.layerwise import Layerwise

_EIGHT_BIT = "tunesmith.train.optimizers.galore8bit:GaLoreAdamW8bit"


@dataclass(frozen=True)
class LowRank:
    """Settings of a low-rank optimizer, from the `galore_*` or `apollo_*` keys or from `optim_args`.

    Attributes:
        place: the class, "module:name"; `arguments`: its keyword arguments besides the learning rate.
        targets, key: names of modules, and the key that they come from.
        rank, proj_type: of the projection; `group`: the further entries of a projected group.
    """

    what: str
    place: str
    arguments: dict[str, Any]
    targets: tuple[str, ...]
    key: str
    rank: int
    proj_type: str
    layerwise: bool
    group: dict[str, Any] = field(default_factory=dict)


def make_low_rank(
    trained: Sequence[Trained], config: Config, model: nn.Module, say: Callable[[str], None]
) -> torch.optim.Optimizer:
    """GaLore or APOLLO over the parameters: projected where the targets are, plain elsewhere.

    Raises:
        ConfigError: a target that is no linear layer of the model, or a projection that does not fit a matrix.
    """
    settings = _galore(config) if uses_galore(config) else _apollo(config)
    chosen = _target_ids(model, settings)
    projected = [one for one in trained if id(one.parameter) in chosen]
    if not projected:
        raise ConfigError(
            f"`{settings.key}`: none of these modules is trained", fix="name modules in the layers that are trained"
        )
    widest = max(min(one.parameter.shape) for one in projected)
    if settings.rank > widest:
        say(
            f"note: the rank of {settings.what} is {settings.rank}, but no matrix is wider than {widest}: "
            "its gradients are rotated, not reduced, and no memory is saved"
        )
    if projected[0].parameter.device.type == "cpu":
        settings.arguments.pop("is_paged", None)  # require.py has said so
    units = [[one] for one in trained] if settings.layerwise else [trained]
    parts = [_make_part(unit, chosen, config, settings) for unit in units]
    _number_random_projections(parts, trained, chosen)
    return Layerwise(parts) if settings.layerwise else parts[0]


def _number_random_projections(
    parts: Sequence[torch.optim.Optimizer], trained: Sequence[Trained], chosen: set[int]
) -> None:
    """Seed each of APOLLO's projections with the number of its parameter: plain ones first, then projected ones.

    That is what the package does for two groups; here the groups are finer, and a layer-wise update has one optimizer
    per parameter, which would draw the same projection for all.
    """
    ordered = sorted(trained, key=lambda one: id(one.parameter) in chosen)
    numbers = {id(one.parameter): number for number, one in enumerate(ordered, 1)}
    for part in parts:
        for parameter, state in part.state.items():
            state["seed"] = numbers[id(parameter)]


def _make_part(
    trained: Sequence[Trained], chosen: set[int], config: Config, settings: LowRank
) -> torch.optim.Optimizer:
    groups = param_groups((one for one in trained if id(one.parameter) not in chosen), config.weight_decay)
    by_shape: dict[tuple[str, int], list[Trained]] = {}
    for one in trained:
        if id(one.parameter) in chosen:
            side = _side(one, settings)
            by_shape.setdefault((side, min(settings.rank, *one.parameter.shape)), []).append(one)
    for (side, rank), members in by_shape.items():
        groups += param_groups(members, config.weight_decay, rank=rank, proj_type=side, **settings.group)
    return construct(settings.place, groups, settings.what, lr=config.learning_rate, **settings.arguments)


def _side(one: Trained, settings: LowRank) -> str:
    """`left`, `right` or `full` for this matrix."""
    rows, columns = one.parameter.shape
    tall = rows >= columns
    side = settings.proj_type
    if side == "std":
        return "right" if tall else "left"
    if side == "reverse_std":
        return "left" if tall else "right"
    if settings.group.get("scale_type") == "channel" and (side == "right") != tall:
        raise ConfigError(
            f"`apollo_proj_type: {side}` leaves no channels to scale in {one.name} ({rows} x {columns})",
            why="channels are counted along the longer side, which this projection removes",
            fix="set `apollo_proj_type: std`, or `apollo_scale_type: tensor`",
        )
    return side


def _galore(config: Config) -> LowRank:
    adam = {"betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    options = optimizer_options(config)
    if config.use_galore:
        what, key, targets = "use_galore", "galore_target", config.galore_target
        rank, gap, scale = config.galore_rank, config.galore_update_interval, config.galore_scale
        proj_type = config.galore_proj_type
    else:
        what, key, targets = f"optim: {config.optim}", "optim_target_modules", config.optim_target_modules
        rank, gap = options.pop("rank", 128), options.pop("update_proj_gap", 200)
        scale, proj_type = options.pop("scale", 0.25), options.pop("proj_type", "std")
    if "adafactor" in config.optim:
        place = "galore_torch:GaLoreAdafactor"
        arguments = {"scale_parameter": False, "relative_step": False, **options}
    elif "8bit" in config.optim:
        place, arguments = _EIGHT_BIT, {**adam, "is_paged": config.optim.startswith("paged_")}
    else:
        place, arguments = "galore_torch:GaLoreAdamW", {**adam, "no_deprecation_warning": True}
    group = {"update_proj_gap": gap, "scale": scale}
    return LowRank(what, place, arguments, targets, key, rank, proj_type, is_layerwise(config), group)


def _apollo(config: Config) -> LowRank:
    arguments: dict[str, Any] = {"betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    if config.use_apollo:
        what, key, targets = "use_apollo", "apollo_target", config.apollo_target
        rank, proj_type = config.apollo_rank, config.apollo_proj_type
        group = {
            "update_proj_gap": config.apollo_update_interval,
            "scale": config.apollo_scale,
            "proj": config.apollo_proj,
            "scale_type": config.apollo_scale_type,
        }
        arguments["scale_front"] = config.apollo_scale_front
    else:
        options = optimizer_options(config)
        what, key, targets = f"optim: {config.optim}", "optim_target_modules", config.optim_target_modules
        rank, proj_type = options.pop("rank", 128), options.pop("proj_type", "std")
        group = {"update_proj_gap": 200, "scale": 1.0, "proj": "random", "scale_type": "channel", **options}
    place = "apollo_torch:APOLLOAdamW"
    return LowRank(what, place, arguments, targets, key, rank, proj_type, is_layerwise(config), group)


def _target_ids(model: nn.Module, settings: LowRank) -> set[int]:
    """ids of the weight matrices that the targets name.

    Raises:
        ConfigError: a target that fits no linear layer.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = output_head(model)
    chosen: set[int] = set()
    for target in settings.targets:
        if target == "all" and settings.key != "optim_target_modules":
            fitting: Iterable[nn.Linear] = (module for module in linear.values() if module is not head)
        elif target.replace("_", "-") == "all-linear" and settings.key == "optim_target_modules":
            fitting = linear.values()
        else:
            fitting = [module for name, module in linear.items() if _names(target, name)]
            if not fitting:
                raise _no_such_module(target, settings.key, linear)
        chosen.update(id(module.weight) for module in fitting)
    return chosen


def _names(target: str, name: str) -> bool:
    """Whether a target, as a part of a name or as a pattern for all of it, names the module."""
    if target in name:
        return True
    try:
        return re.fullmatch(target, name) is not None
    except re.error:
        return False


def _no_such_module(target: str, key: str, linear: Iterable[str]) -> ConfigError:
    parts = sorted({part for name in linear for part in name.split(".") if not part.isdigit()})
    close = nearest(target, parts, 1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return ConfigError(f"`{key}`: no linear layer is called '{target}'", fix=f"{hint}There are: {', '.join(parts)}.")
