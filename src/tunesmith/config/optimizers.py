"""The optimizers by name: which package gives each, what `optim_args` may hold, and which cannot be used and why.

The names are transformers' `OptimizerNames`. The `use_*` keys choose an optimizer of their own (`chosen_optimizer`),
which may build on the one that `optim` names. The code that makes them is in train/optimizers/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.config.arguments import Argument, read_arguments, split_arguments
from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from tunesmith.config.schema import Config

PROJECTIONS = ("std", "reverse_std", "right", "left", "full")
APOLLO_PROJECTIONS = ("std", "right", "left")


@dataclass(frozen=True)
class Optimizer:
    """What is known about one optimizer before torch is imported.

    Attributes:
        package: the module to import beyond torch and transformers; `extra`: Tunesmith's extra that brings it.
        arguments: what `optim_args` may hold.
        refusal: why it cannot be used, and `instead`: what to do; empty for those that run.
    """

    package: str = ""
    extra: str = ""
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    refusal: str = ""
    instead: str = ""


_POSITIVE, _SHARE = Argument("float", gt=0), Argument("float", ge=0, lt=1)
_BNB = {"min_8bit_size": Argument("int", ge=1)}
_ADEMAMIX = {
    "beta3": _SHARE,
    "alpha": Argument("float", ge=0),
    "t_alpha": Argument("int", ge=1),
    "t_beta3": Argument("int", ge=1),
    **_BNB,
}
_BNB_RMSPROP = {"alpha": Argument("float", gt=0, lt=1), "eps": _POSITIVE, **_BNB}  # its momentum does nothing
_TORCHAO = {"block_size": Argument("int", ge=2), "bf16_stochastic_round": Argument("bool")}
_GALORE = {
    "rank": Argument("int", ge=1),
    "update_proj_gap": Argument("int", ge=1),
    "scale": Argument("float", ge=0),
    "proj_type": Argument("str", choices=PROJECTIONS),
}
_APOLLO = {
    **_GALORE,
    "proj": Argument("str", choices=("svd", "random")),
    "proj_type": Argument("str", choices=APOLLO_PROJECTIONS),
    "scale_type": Argument("str", choices=("channel", "tensor")),
}
_ADAFACTOR = {
    "clip_threshold": _POSITIVE,
    "decay_rate": Argument("float", lt=0),
    "beta1": _SHARE,
    "scale_parameter": Argument("bool"),
}
_SCHEDULE_FREE = {"r": Argument("float", ge=0), "weight_lr_power": Argument("float", ge=0)}


def _bnb(arguments: Mapping[str, Argument] = _BNB) -> Optimizer:
    return Optimizer("bitsandbytes", "bitsandbytes", arguments)


def _refused(refusal: str, instead: str) -> Optimizer:
    return Optimizer(refusal=refusal, instead=instead)


_LOMO = _refused(
    "it updates the weights inside its own backward pass, in place of the one that sums micro-batches and ranks",
    "use_galore: true with galore_layerwise: true saves the same memory",
)

OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw_torch": Optimizer(arguments={"amsgrad": Argument("bool")}),
    "adamw_torch_fused": Optimizer(arguments={"amsgrad": Argument("bool")}),
    "adafactor": Optimizer(arguments=_ADAFACTOR),
    "sgd": Optimizer(
        arguments={"momentum": _SHARE, "dampening": Argument("float", ge=0), "nesterov": Argument("bool")}
    ),
    "adagrad": Optimizer(
        arguments={
            "lr_decay": Argument("float", ge=0),
            "eps": _POSITIVE,
            "initial_accumulator_value": Argument("float", ge=0),
        }
    ),
    "rmsprop": Optimizer(
        arguments={"alpha": _SHARE, "eps": _POSITIVE, "momentum": _SHARE, "centered": Argument("bool")}
    ),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), Optimizer("torchao", "torchao", _TORCHAO)),
    **dict.fromkeys(
        (
            "adamw_bnb_8bit",
            "adamw_8bit",
            "paged_adamw_32bit",
            "paged_adamw_8bit",
            "lion_32bit",
            "lion_8bit",
            "paged_lion_32bit",
            "paged_lion_8bit",
        ),
        _bnb(),
    ),
    **dict.fromkeys(("ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"), _bnb(_ADEMAMIX)),
    **dict.fromkeys(("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"), _bnb(_BNB_RMSPROP)),
    **dict.fromkeys(
        ("galore_adamw", "galore_adamw_layerwise", "galore_adamw_8bit", "galore_adamw_8bit_layerwise"),
        Optimizer("galore_torch", "galore", _GALORE),
    ),
    **dict.fromkeys(
        ("galore_adafactor", "galore_adafactor_layerwise"),
        Optimizer("galore_torch", "galore", {**_GALORE, **_ADAFACTOR}),
    ),
    **dict.fromkeys(("apollo_adamw", "apollo_adamw_layerwise"), Optimizer("apollo_torch", "apollo", _APOLLO)),
    "schedule_free_adamw": Optimizer("schedulefree", "schedule-free", _SCHEDULE_FREE),
    "schedule_free_sgd": Optimizer("schedulefree", "schedule-free", {**_SCHEDULE_FREE, "momentum": _SHARE}),
    "schedule_free_radam": Optimizer(
        "schedulefree", "schedule-free", {**_SCHEDULE_FREE, "silent_sgd_phase": Argument("bool")}
    ),
    "stable_adamw": Optimizer(
        "optimi",
        "stable-adamw",
        {"decouple_lr": Argument("bool"), "max_lr": _POSITIVE, "kahan_sum": Argument("bool")},
    ),
    "grokadamw": Optimizer(
        "grokadamw",
        "grokadamw",
        {
            "alpha_init": Argument("float", ge=0, le=1),
            "lamb": Argument("float", ge=0),
            "gamma": Argument("float", ge=0, le=1),
            "grokking_signal_decay_rate": Argument("float", ge=0),
            "gradient_clipping": Argument("float", ge=0),
        },
    ),
    "lomo": _LOMO,
    "adalomo": _LOMO,
    "adamw_anyprecision": _refused(
        "its package, torchdistx, is on no package index and does not build with today's torch",
        "stable_adamw with optim_args: kahan_sum=true sums as exactly in bfloat16",
    ),
    "adamw_torch_xla": _refused("it needs a TPU and the package torch_xla", "use optim: adamw_torch"),
    "adamw_torch_npu_fused": _refused("it needs an Ascend NPU and the package torch_npu", "use optim: adamw_torch"),
}
"""name -> what it needs and takes."""

MUON = Optimizer(
    arguments={
        "momentum": _SHARE,
        "nesterov": Argument("bool"),
        "ns_steps": Argument("int", ge=1, lt=100),
        "adjust_lr_fn": Argument("str", choices=("match_rms_adamw", "original")),
    }
)
ADAM_MINI = Optimizer("adam_mini", "adam-mini")

OWN_KEYS: Mapping[str, str] = {
    "lr": "learning_rate",
    "weight_decay": "weight_decay",
    "betas": "adam_beta1` and `adam_beta2",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "eps": "adam_epsilon",
}
"""Entries that people write into `optim_args` and that have a key of their own."""

GALORE_BASES = ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adafactor")
"""What `optim` may be under `use_galore`."""
PLAIN_ADAMW = ("adamw_torch", "adamw_torch_fused")
"""What `optim` may be under `use_apollo`, `use_adam_mini` and `use_muon`, which are forms of AdamW themselves."""
LAYERWISE = tuple(name for name in OPTIMIZERS if name.endswith("_layerwise"))
LOW_RANK = tuple(name for name in OPTIMIZERS if name.startswith(("galore_", "apollo_")))


def chosen_optimizer(config: Config) -> tuple[str, Optimizer]:
    """What trains under this configuration: the key or name that chose it, and what is known about it."""
    base = OPTIMIZERS[config.optim]
    if config.use_galore:
        arguments = _ADAFACTOR if config.optim == "adafactor" else {}
        return "use_galore", Optimizer("galore_torch", "galore", arguments)
    if config.use_apollo:
        return "use_apollo", Optimizer("apollo_torch", "apollo")
    if config.use_badam:
        return "use_badam", Optimizer("badam", "badam", base.arguments if config.badam_mode == "layer" else {})
    if config.use_adam_mini:
        return "use_adam_mini", ADAM_MINI
    if config.use_muon:
        return "use_muon", MUON
    return f"optim: {config.optim}", base


def uses_galore(config: Config) -> bool:
    """Whether GaLore trains, by its key or by the name of the optimizer."""
    return config.use_galore or config.optim.startswith("galore_")


def uses_apollo(config: Config) -> bool:
    """Whether APOLLO trains, by its key or by the name of the optimizer."""
    return config.use_apollo or config.optim.startswith("apollo_")


def is_layerwise(config: Config) -> bool:
    """Whether each weight is updated inside the backward pass, as soon as its gradient is there."""
    return (
        (config.use_galore and config.galore_layerwise)
        or (config.use_apollo and config.apollo_layerwise)
        or config.optim in LAYERWISE
    )


def optimizer_options(config: Config) -> dict[str, Any]:
    """`optim_args` in their types.

    Raises:
        ConfigError: an entry that the chosen optimizer does not take, or of the wrong type.
    """
    name, info = chosen_optimizer(config)
    given = split_arguments("optim_args", config.optim_args)
    options = read_arguments("optim_args", name, given, info.arguments, OWN_KEYS)
    if options.get("nesterov") and not options.get("momentum") and name == "optim: sgd":
        raise ConfigError(
            "`optim_args`: nesterov needs a momentum", fix="write `optim_args: momentum=0.9,nesterov=true`"
        )
    return options


def describe_state(config: Config) -> str:
    """In words, what the optimizer's state is made of: a run can only go on from state of the same make."""
    base = "adamw_torch" if config.optim == "adamw_torch_fused" else config.optim
    if config.use_galore:
        side = f"rank {config.galore_rank}, {config.galore_proj_type}, on {', '.join(config.galore_target)}"
        return f"GaLore over {base}, {side}"
    if config.use_apollo:
        side = f"rank {config.apollo_rank}, {config.apollo_proj} {config.apollo_proj_type}"
        return f"APOLLO, {side}, on {', '.join(config.apollo_target)}"
    if config.use_badam and config.badam_mode == "layer":
        return f"BAdam over {base}, layers {config.badam_switch_mode or 'ascending'}"
    if config.use_badam:
        return f"BAdam, {config.badam_update_ratio:g} of the weights, {config.badam_mask_mode}"
    if config.use_adam_mini or config.use_muon:
        return "Adam-mini" if config.use_adam_mini else "Muon"
    if config.optim in LOW_RANK:
        return f"{base.removesuffix('_layerwise')} on {', '.join(config.optim_target_modules)}, {config.optim_args}"
    return base
