"""Which optimizers, schedules and their settings may stand together: rows for rules.py.

What depends on the shapes of the model, on the device or on installed packages is checked by train/optimizers/.
"""

from __future__ import annotations

from tunesmith.config.optimizers import (
    GALORE_BASES,
    LOW_RANK,
    OPTIMIZERS,
    PLAIN_ADAMW,
    is_layerwise,
    uses_apollo,
    uses_galore,
)
from tunesmith.config.rule import Note, Rule
from tunesmith.config.schedules import WATCHING
from tunesmith.config.schema import Config

SPECIAL = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")
BADAM_BASES = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop")
FREE_SCHEDULES = ("constant", "constant_with_warmup")
_ADAPTERS = ("lora", "oft")


def _num_special(c: Config) -> int:
    return sum(getattr(c, key) for key in SPECIAL) + (c.optim in LOW_RANK)


def _warms_up(c: Config) -> bool:
    return c.warmup_steps > 0 or c.warmup_ratio > 0


def _warms_up_itself(c: Config) -> bool:
    return c.optim in ("schedule_free_adamw", "schedule_free_sgd")


OPTIMIZER_RULES: tuple[Rule, ...] = (
    *(
        Rule(
            f"optim {name} is not to be had",
            ("optim",),
            lambda c, g, name=name: c.optim == name,  # type: ignore[misc]
            f"optim: {name} cannot be used: {info.refusal}",
            info.instead,
        )
        for name, info in OPTIMIZERS.items()
        if info.refusal
    ),
    Rule(
        "one special optimizer",
        (*SPECIAL, "optim"),
        lambda c, g: _num_special(c) > 1,
        "more than one optimizer is asked for: use_galore {use_galore}, use_apollo {use_apollo}, "
        "use_badam {use_badam}, use_adam_mini {use_adam_mini}, use_muon {use_muon}, optim {optim}",
        "keep one of them; with a use_* key, leave optim at adamw_torch",
    ),
    Rule(
        "low-rank and block-wise optimizers train the weights themselves",
        ("finetuning_type", "use_galore", "use_apollo", "use_badam", "optim"),
        lambda c, g: c.finetuning_type in _ADAPTERS and (uses_galore(c) or uses_apollo(c) or c.use_badam),
        "GaLore, APOLLO and BAdam save the memory of training all weights, but finetuning_type is {finetuning_type}",
        "set finetuning_type: full (or freeze), or train the adapter with optim: adamw_torch",
    ),
    Rule(
        "Adam-mini knows the blocks of the model, not those of an adapter",
        ("use_adam_mini", "finetuning_type"),
        lambda c, g: c.use_adam_mini and c.finetuning_type in _ADAPTERS,
        "use_adam_mini shares one step size per attention head and neuron of the model, which an adapter does not have",
        "set finetuning_type: full (or freeze), or train the adapter with optim: adamw_torch",
    ),
    Rule(
        "GaLore builds on AdamW or Adafactor",
        ("optim", "use_galore"),
        lambda c, g: c.use_galore and c.optim not in (*GALORE_BASES, *LOW_RANK),
        "use_galore projects the gradients of AdamW or Adafactor, but optim is {optim}",
        f"set optim to one of {', '.join(GALORE_BASES)}",
    ),
    Rule(
        "APOLLO, Adam-mini and Muon bring their own AdamW",
        ("optim", "use_apollo", "use_adam_mini", "use_muon"),
        lambda c, g: (
            (c.use_apollo or c.use_adam_mini or c.use_muon)
            and _num_special(c) == 1
            and c.optim not in (*PLAIN_ADAMW, *LOW_RANK)
        ),
        "APOLLO, Adam-mini and Muon are optimizers of their own, but optim is {optim}",
        "set optim: adamw_torch",
    ),
    Rule(
        "BAdam builds on an optimizer whose state can be dropped",
        ("optim", "use_badam", "badam_mode"),
        lambda c, g: (
            c.use_badam
            and c.optim not in LOW_RANK
            and c.optim not in (BADAM_BASES if c.badam_mode == "layer" else PLAIN_ADAMW)
        ),
        "use_badam (badam_mode {badam_mode}) cannot switch blocks under optim: {optim}",
        f"set optim: adamw_torch; in layer mode {', '.join(BADAM_BASES[2:])} will do too",
    ),
    Rule(
        "a fixed block is named",
        ("badam_switch_mode", "badam_start_block"),
        lambda c, g: (
            c.use_badam and c.badam_mode == "layer" and c.badam_switch_mode == "fixed" and c.badam_start_block is None
        ),
        "badam_switch_mode: fixed trains one block only, but badam_start_block does not say which",
        "set badam_start_block to the number of a layer, counted from 0",
    ),
    Rule(
        "a block is trained for at least one step",
        ("badam_switch_interval",),
        lambda c, g: c.use_badam and c.badam_switch_interval == 0,
        "badam_switch_interval is 0: no block would ever be trained",
        "set it to the number of steps per block, or to -1 to keep the first one",
    ),
    Rule(
        "layer-wise updates need no loss scaling",
        ("fp16", "galore_layerwise", "apollo_layerwise", "optim"),
        lambda c, g: c.fp16 and is_layerwise(c),
        "layer-wise updates use each gradient before it is known whether the scaled loss has overflowed",
        "set bf16: true or pure_bf16: true in place of fp16, or turn the layer-wise updates off",
    ),
    Rule(
        "low-rank optimizers by name are told where to act",
        ("optim", "optim_target_modules"),
        lambda c, g: c.optim in LOW_RANK and not c.optim_target_modules,
        "optim: {optim} needs to know which modules it acts on",
        "set optim_target_modules: all-linear, or names of modules such as attn,mlp",
    ),
    Rule(
        "an optimizer without schedule has none",
        ("lr_scheduler_type", "optim"),
        lambda c, g: c.optim.startswith("schedule_free_") and c.lr_scheduler_type not in FREE_SCHEDULES,
        "optim: {optim} averages the weights in place of a schedule, but lr_scheduler_type is {lr_scheduler_type}",
        "set lr_scheduler_type: constant or constant_with_warmup",
    ),
    Rule(
        "an optimizer's own warm-up is given in steps",
        ("warmup_ratio", "optim", "lr_scheduler_type"),
        lambda c, g: _warms_up_itself(c) and c.lr_scheduler_type == "constant" and c.warmup_ratio > 0,
        "optim: {optim} warms up by itself and counts steps, but warmup_ratio is {warmup_ratio}",
        "set warmup_steps, or lr_scheduler_type: constant_with_warmup",
    ),
    Rule(
        "blocks of layers do not hold the embeddings",
        ("embedding_learning_rate", "use_badam"),
        lambda c, g: c.use_badam and c.embedding_learning_rate is not None,
        "embedding_learning_rate has nothing to act on: BAdam trains blocks of layers, not the embeddings",
        "remove embedding_learning_rate or use_badam",
    ),
    Rule(
        "a plateau is seen by evaluation",
        ("lr_scheduler_type", "eval_strategy"),
        lambda c, g: c.lr_scheduler_type in WATCHING and c.eval_strategy == "no",
        "lr_scheduler_type {lr_scheduler_type} follows the evaluation, but eval_strategy is no",
        "set eval_strategy: steps or epoch, or use another schedule",
    ),
)

OPTIMIZER_NOTES: tuple[Note, ...] = (
    Note(
        "layer-wise updates are not clipped",
        lambda c, g: is_layerwise(c) and c.max_grad_norm > 0,
        "layer-wise updates use each gradient before the norm of all is known: gradients are not clipped to "
        "max_grad_norm ({max_grad_norm})",
    ),
    Note(
        "low-rank training pays with pure bf16",
        lambda c, g: (uses_galore(c) or uses_apollo(c)) and not c.pure_bf16,
        "GaLore and APOLLO shrink the optimizer's memory only; pure_bf16: true halves that of the weights too",
    ),
    Note(
        "the licence of APOLLO's package",
        lambda c, g: uses_apollo(c),
        "the package apollo-torch is licensed for non-commercial use only (CC BY-NC)",
    ),
    Note(
        "BAdam's ratio mode has no weight decay",
        lambda c, g: c.use_badam and c.badam_mode == "ratio" and c.weight_decay > 0,
        "badam_mode: ratio updates single weights and does not decay them: weight_decay ({weight_decay}) has no effect",
    ),
    Note(
        "target modules without an optimizer that has them",
        lambda c, g: bool(c.optim_target_modules) and c.optim not in LOW_RANK,
        "optim_target_modules has no effect with optim: {optim}; it belongs to galore_* and apollo_*",
    ),
    Note(
        "a constant schedule does not warm up",
        lambda c, g: c.lr_scheduler_type == "constant" and _warms_up(c) and not _warms_up_itself(c),
        "lr_scheduler_type: constant starts at the full learning rate, the warm-up is not used; "
        "constant_with_warmup uses it",
    ),
)
