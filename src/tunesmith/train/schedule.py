"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to drift on resume.

`factor(step)` multiplies the learning rate for the update number `step` (0-based), with the names, keyword
arguments and formulas of transformers' schedules. The two that follow the evaluations are in plateau.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.config.schedules import SCHEDULES, schedule_options
from tunesmith.errors import ConfigError, did_you_mean

Schedule = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """Name, length and options of a schedule: `total_steps` updates, the first `warmup_steps` of them rising."""

    name: str
    total_steps: int
    warmup_steps: int
    learning_rate: float
    options: Mapping[str, Any]


def make_schedule(spec: ScheduleSpec) -> Schedule:
    """The factor as a function of the 0-based step.

    Raises:
        ConfigError: unknown name, or an option that the schedule does not have or that is of the wrong type.
    """
    if spec.name not in _BUILDERS:
        raise ConfigError(
            f"unknown `lr_scheduler_type: {spec.name}`",
            fix=f"{did_you_mean(spec.name, SCHEDULES)} Known: {', '.join(SCHEDULES)}.".strip(),
        )
    options = schedule_options(spec.name, spec.options, spec.learning_rate)
    return _BUILDERS[spec.name](
        ScheduleSpec(spec.name, spec.total_steps, spec.warmup_steps, spec.learning_rate, options)
    )


def warmup_steps_of(total_steps: int, warmup_steps: float, warmup_ratio: float) -> int:
    """The number of warm-up steps: given in steps, as a fraction below 1, or as `warmup_ratio`, in this order."""
    if warmup_steps >= 1:
        return int(warmup_steps)
    return math.ceil(total_steps * (warmup_steps or warmup_ratio))


def _rise(spec: ScheduleSpec, step: int) -> float | None:
    """The factor while warming up, None afterwards."""
    return step / max(1, spec.warmup_steps) if step < spec.warmup_steps else None


def _progress(spec: ScheduleSpec, step: int) -> float:
    """0 at the end of the warm-up, 1 at the last step."""
    return (step - spec.warmup_steps) / max(1, spec.total_steps - spec.warmup_steps)


def _after_warmup(spec: ScheduleSpec, decay: Callable[[float], float]) -> Schedule:
    def factor(step: int) -> float:
        rise = _rise(spec, step)
        return decay(_progress(spec, step)) if rise is None else rise

    return factor


def _linear(spec: ScheduleSpec) -> Schedule:
    return _after_warmup(spec, lambda progress: max(0.0, 1 - progress))


def _cosine(spec: ScheduleSpec) -> Schedule:
    num_cycles = spec.options.get("num_cycles", 0.5)
    return _after_warmup(spec, lambda progress: max(0.0, 0.5 * (1 + math.cos(2 * math.pi * num_cycles * progress))))


def _cosine_with_restarts(spec: ScheduleSpec) -> Schedule:
    num_cycles = spec.options.get("num_cycles", 1)

    def decay(progress: float) -> float:
        return 0.0 if progress >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * ((num_cycles * progress) % 1.0))))

    return _after_warmup(spec, decay)


def _polynomial(spec: ScheduleSpec) -> Schedule:
    lr_end, power = spec.options.get("lr_end", 1e-7), spec.options.get("power", 1.0)
    lr = spec.learning_rate
    if lr == 0:
        return lambda step: 1.0
    return _after_warmup(spec, lambda progress: ((lr - lr_end) * max(0.0, 1 - progress) ** power + lr_end) / lr)


def _constant(spec: ScheduleSpec) -> Schedule:
    return lambda step: 1.0


def _constant_with_warmup(spec: ScheduleSpec) -> Schedule:
    return _after_warmup(spec, lambda progress: 1.0)


def _inverse_sqrt(spec: ScheduleSpec) -> Schedule:
    timescale = spec.options.get("timescale") or spec.warmup_steps or 10_000
    shift = timescale - spec.warmup_steps

    def factor(step: int) -> float:
        rise = _rise(spec, step)
        return 1 / math.sqrt((step + shift) / timescale) if rise is None else rise

    return factor


def _floor(spec: ScheduleSpec) -> float:
    """The lowest factor, from `min_lr_rate` or `min_lr`."""
    if "min_lr_rate" in spec.options:
        return spec.options["min_lr_rate"]
    return spec.options["min_lr"] / spec.learning_rate if spec.learning_rate else 0.0


def _cosine_with_min_lr(spec: ScheduleSpec) -> Schedule:
    floor, num_cycles = _floor(spec), spec.options.get("num_cycles", 0.5)

    def decay(progress: float) -> float:
        return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * num_cycles * progress)) * (1 - floor) + floor)

    return _after_warmup(spec, decay)


def _cosine_warmup_with_min_lr(spec: ScheduleSpec) -> Schedule:
    """As cosine_with_min_lr, one step ahead: the first step is not lost to a learning rate of 0.

    The rise starts at `warmup_lr_rate` of the top, by default at 1 / warmup_steps of it.
    """
    floor, num_cycles = _floor(spec), spec.options.get("num_cycles", 0.5)
    start = spec.options.get("warmup_lr_rate")

    def factor(step: int) -> float:
        if step < spec.warmup_steps:
            if start is None:
                return (step + 1) / spec.warmup_steps
            return start + (1 - start) * step / max(1, spec.warmup_steps - 1)
        progress = (step - spec.warmup_steps + 1) / max(1, spec.total_steps - spec.warmup_steps)
        return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * num_cycles * progress)) * (1 - floor) + floor)

    return factor


def _warmup_stable_decay(spec: ScheduleSpec) -> Schedule:
    """Rise, hold, fall; by default a third of the steps after the warm-up holds and the rest falls."""
    options = spec.options
    rest = spec.total_steps - spec.warmup_steps
    num_stable = options.get("num_stable_steps", max(0, rest - options.get("num_decay_steps", rest - rest // 3)))
    num_decay = options.get("num_decay_steps", rest - num_stable)
    floor, num_cycles = options.get("min_lr_ratio", 0.0), options.get("num_cycles", 0.5)
    rise, fall = _RISES[options.get("warmup_type", "linear")], options.get("decay_type", "cosine")

    def factor(step: int) -> float:
        if step < spec.warmup_steps:
            return rise(step / max(1, spec.warmup_steps)) * (1 - floor) + floor
        falling = step - spec.warmup_steps - num_stable
        if falling < 0:
            return 1.0
        if falling >= num_decay:
            return floor
        return max(0.0, _fall(fall, falling / max(1, num_decay), num_cycles) * (1 - floor) + floor)

    return factor


_RISES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cosine": lambda progress: 0.5 * (1 - math.cos(math.pi * progress)),
    "1-sqrt": lambda progress: 1 - math.sqrt(1 - progress),
}


def _fall(kind: str, progress: float, num_cycles: float) -> float:
    if kind == "cosine":
        return 0.5 * (1 + math.cos(2 * math.pi * num_cycles * progress))
    return 1 - (progress if kind == "linear" else math.sqrt(progress))


_BUILDERS: Mapping[str, Callable[[ScheduleSpec], Schedule]] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "inverse_sqrt": _inverse_sqrt,
    "reduce_lr_on_plateau": _constant,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "cosine_warmup_with_min_lr": _cosine_warmup_with_min_lr,
    "warmup_stable_decay": _warmup_stable_decay,
    "greedy": _constant,
}
