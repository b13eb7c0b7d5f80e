"""From the configuration to the loop's settings: batch layout, number of steps, what happens when."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tunesmith.config import Config
from tunesmith.config.resolve import Resolved
from tunesmith.config.schedules import WATCHING, schedule_options
from tunesmith.data.plan import PlanSpec, plan_epoch
from tunesmith.train.loop import LoopSettings
from tunesmith.train.memory import MemoryNeed
from tunesmith.train.plateau import Follower, Greedy, Plateau
from tunesmith.train.schedule import ScheduleSpec, warmup_steps_of

ENOUGH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Micro-batches beyond this bring no more speed: the matrices are large enough to keep the cores busy."""
MEMORY_SHARE = 0.8
"""Of the free memory a step without checkpointing may fill: the estimate is right to about a fifth."""


def decide_layout(resolved: Resolved, device: torch.device) -> Resolved:
    """Settle `micro_batch_tokens` when it is left open.

    Never more than `per_device_train_batch_size` rows of `cutoff_len`, which is the memory that was asked for.
    """
    config = resolved.config
    if config.micro_batch_tokens is not None:
        return resolved
    asked = config.per_device_train_batch_size * config.cutoff_len
    enough = max(ENOUGH_TOKENS.get(device.type, 8192), config.cutoff_len)
    why = (
        f"per_device_train_batch_size x cutoff_len = {asked}"
        if asked <= enough
        else f"more than {enough} tokens in a row are no faster on {device.type}"
    )
    return resolved.replace("micro_batch_tokens", min(asked, enough), why)


def plan_spec(config: Config, world_size: int) -> PlanSpec:
    """The batch layout: rows (or packs) per optimizer step over all ranks, and how they are cut."""
    assert config.micro_batch_tokens is not None
    per_rank = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if config.stage == "ppo":
        per_rank *= config.ppo_buffer_size  # answered together, then learnt from in as many parts
    return PlanSpec(
        rows_per_step=per_rank * world_size,
        micro_batch_tokens=config.micro_batch_tokens,
        world_size=world_size,
        packing=bool(config.packing),
        pack_tokens=config.cutoff_len if config.packing else 0,
        shuffle=not config.disable_shuffling,
        seed=config.seed if config.data_seed is None else config.data_seed,
    )


def largest_row(lengths: Sequence[int], spec: PlanSpec) -> int:
    """Tokens of the largest micro-batch of the first epoch, over all ranks."""
    steps = plan_epoch(lengths, spec, 0)
    micro_batches = (micro for step in steps for rank in step.micro_batches for micro in rank)
    return max(sum(lengths[index] for index in micro) for micro in micro_batches)


def count_steps(lengths: Sequence[int], spec: PlanSpec, config: Config) -> tuple[int, int]:
    """(total optimizer steps, number of epochs begun), by `max_steps` or `num_train_epochs`."""
    if not spec.packing:
        per_epoch = math.ceil(len(lengths) / spec.rows_per_step)
        total = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * per_epoch)
        return total, math.ceil(total / per_epoch)
    total = epoch = 0
    while config.max_steps > 0 or epoch < config.num_train_epochs:
        num_steps = len(plan_epoch(lengths, spec, epoch))  # packs differ from epoch to epoch
        share = min(config.num_train_epochs - epoch, 1.0) if config.max_steps <= 0 else 1.0
        total, epoch = total + math.ceil(num_steps * share), epoch + 1
        if 0 < config.max_steps <= total:
            return config.max_steps, epoch
    return total, epoch


def loop_settings(config: Config, total_steps: int, has_eval: bool) -> LoopSettings:
    """When to log, evaluate, save and stop."""
    strategies = {"log": config.logging_strategy, "save": config.save_strategy, "eval": config.eval_strategy}
    metric = config.metric_for_best_model or "loss"
    return LoopSettings(
        total_steps=total_steps,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        logging_steps=_every(config.logging_strategy, config.logging_steps, total_steps),
        eval_steps=_every(config.eval_strategy, config.eval_steps, total_steps) if has_eval else None,
        save_steps=_every(config.save_strategy, config.save_steps, total_steps),
        per_epoch=frozenset(what for what, strategy in strategies.items() if strategy == "epoch"),
        log_first_step=config.logging_first_step,
        metric=metric if metric.startswith("eval_") else f"eval_{metric}",
        greater_is_better=bool(config.greater_is_better),
        keep_best=has_eval and config.save_strategy != "no" and (config.save_best or config.load_best_model_at_end),
        patience=config.early_stopping_steps,
        eval_delay=config.eval_delay,
    )


def _every(strategy: str, steps: float | None, total_steps: int) -> int | None:
    """A number of steps; below 1 it is a fraction of the run."""
    if strategy != "steps" or not steps:
        return None
    return max(1, math.ceil(steps * total_steps)) if steps < 1 else int(steps)


def schedule_spec(config: Config, total_steps: int) -> ScheduleSpec:
    """The learning-rate schedule of the run."""
    warmup = warmup_steps_of(total_steps, config.warmup_steps, config.warmup_ratio)
    options = dict(config.lr_scheduler_kwargs or {})
    return ScheduleSpec(config.lr_scheduler_type, total_steps, warmup, config.learning_rate, options)


def plateau_of(config: Config) -> Follower | None:
    """The state of a schedule that follows the evaluations, None for the other schedules."""
    if config.lr_scheduler_type not in WATCHING:
        return None
    given = schedule_options(config.lr_scheduler_type, config.lr_scheduler_kwargs, config.learning_rate)
    options = {"mode": "max" if config.greater_is_better else "min", **given}
    return Plateau(**options) if config.lr_scheduler_type == "reduce_lr_on_plateau" else Greedy(**options)


def decide_checkpointing(
    resolved: Resolved, need: MemoryNeed, free_bytes: int | None, *, num_ranks: int = 1
) -> tuple[Resolved, list[str]]:
    """Settle gradient checkpointing: on only where a step without it would fill most of the free memory.

    Recomputing costs a quarter to a third of the speed, so it is not the default where memory suffices.

    Args:
        need: of one step on one device. free_bytes: of that device now; None where it is not known.
        num_ranks: processes that share the memory (on a CPU).

    Returns:
        The settings, and what to tell the user: the need and what is free, and a warning where even
        checkpointing may not suffice.
    """
    resolved = _settle_checkpointing(resolved, need, None if free_bytes is None else free_bytes // num_ranks)
    is_on = bool(resolved.config.gradient_checkpointing)
    needed = need.total(checkpointing=is_on)
    state = f"gradient checkpointing is {'on' if is_on else 'off'}"
    if free_bytes is None:
        return resolved, [f"memory: a step needs about {_gb(needed)}; what is free is not known; {state}"]
    free = free_bytes // num_ranks
    lines = [f"memory: a step needs about {_gb(needed)} of {_gb(free)} free ({need.describe()}); {state}"]
    if needed > free:
        smaller = "a smaller micro_batch_tokens" + ("" if is_on else ", gradient_checkpointing: true")
        lines.append(f"note: this may not fit; what helps: {smaller}, finetuning_type: lora")
    return resolved, lines


def _settle_checkpointing(resolved: Resolved, need: MemoryNeed, free: int | None) -> Resolved:
    config = resolved.config
    if config.disable_gradient_checkpointing:
        return resolved.replace("gradient_checkpointing", False, "disable_gradient_checkpointing is true")
    if config.gradient_checkpointing is not None:
        return resolved
    if free is None:
        return resolved.replace("gradient_checkpointing", True, "the free memory is not known on this device")
    needed = need.total(checkpointing=False)
    why = f"without it a step needs about {_gb(needed)} of {_gb(free)} free"
    return resolved.replace("gradient_checkpointing", needed > MEMORY_SHARE * free, why)


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
