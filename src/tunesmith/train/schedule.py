"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to drift on resume.

`factor(step)` multiplies the learning rate for the update number `step` (0-based), with the names, keyword
arguments and formulas of transformers' schedules. `reduce_lr_on_plateau` alone depends on evaluations; its
state is four numbers kept in the trainer state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
        ConfigError: unknown name, or an option that the schedule does not have.
    """
    known = {
        "linear": (_linear, ()),
        "cosine": (_cosine, ("num_cycles",)),
        "cosine_with_restarts": (_cosine_with_restarts, ("num_cycles",)),
        "polynomial": (_polynomial, ("lr_end", "power")),
        "constant": (_constant, ()),
        "constant_with_warmup": (_constant_with_warmup, ()),
        "inverse_sqrt": (_inverse_sqrt, ("timescale",)),
        "reduce_lr_on_plateau": (_constant, ("factor", "patience", "threshold", "cooldown", "min_lr", "mode")),
        "cosine_with_min_lr": (_cosine_with_min_lr, ("num_cycles", "min_lr", "min_lr_rate")),
        "warmup_stable_decay": (_warmup_stable_decay, ("num_stable_steps", "num_decay_steps", "min_lr_ratio")),
    }
    if spec.name not in known:
        raise ConfigError(
            f"unknown `lr_scheduler_type: {spec.name}`",
            fix=f"{did_you_mean(spec.name, known)} Known: {', '.join(known)}.".strip(),
        )
    build, options = known[spec.name]
    for key in spec.options:
        if key not in options:
            raise ConfigError(
                f"`lr_scheduler_kwargs`: {spec.name} has no option '{key}'",
                fix=f"it has {', '.join(options) or 'none'}",
            )
    return build(spec)


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


def _cosine_with_min_lr(spec: ScheduleSpec) -> Schedule:
    floor = spec.options.get("min_lr_rate")
    if floor is None:
        if "min_lr" not in spec.options:
            raise ConfigError(
                "`lr_scheduler_type: cosine_with_min_lr` needs to know the lowest learning rate",
                fix="set `lr_scheduler_kwargs: {min_lr_rate: 0.1}` (a fraction of learning_rate) or `{min_lr: 1e-6}`",
            )
        floor = spec.options["min_lr"] / spec.learning_rate
    num_cycles = spec.options.get("num_cycles", 0.5)

    def decay(progress: float) -> float:
        return 0.5 * (1 + math.cos(2 * math.pi * num_cycles * progress)) * (1 - floor) + floor

    return _after_warmup(spec, decay)


def _warmup_stable_decay(spec: ScheduleSpec) -> Schedule:
    """Rise, hold, fall as a half cosine; by default a third of the steps after the warm-up holds."""
    rest = spec.total_steps - spec.warmup_steps
    num_stable = spec.options.get("num_stable_steps", rest // 3)
    num_decay = spec.options.get("num_decay_steps", rest - num_stable)
    floor = spec.options.get("min_lr_ratio", 0.0)

    def factor(step: int) -> float:
        if step < spec.warmup_steps:
            return step / max(1, spec.warmup_steps) * (1 - floor) + floor
        falling = step - spec.warmup_steps - num_stable
        if falling < 0:
            return 1.0
        if falling < num_decay:
            return max(0.0, 0.5 * (1 + math.cos(math.pi * falling / max(1, num_decay)))) * (1 - floor) + floor
        return floor

    return factor


@dataclass
class Plateau:
    """Lowers the learning rate when the evaluation metric stops getting better (as torch's ReduceLROnPlateau).

    A metric counts as better when it beats the best by the relative `threshold`; after more than `patience`
    evaluations without that, the factor is multiplied by `factor`, then `cooldown` evaluations do not count.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_lr: float = 0.0
    mode: str = "min"
    scale: float = 1.0
    best: float | None = None
    num_bad: int = 0
    num_cooling: int = 0

    def observe(self, metric: float, learning_rate: float) -> None:
        """Take in one evaluation."""
        if self.best is None or self._better(metric):
            self.best, self.num_bad = metric, 0
        else:
            self.num_bad += 1
        if self.num_cooling > 0:
            self.num_cooling, self.num_bad = self.num_cooling - 1, 0
        if self.num_bad > self.patience:
            self.scale = max(self.scale * self.factor, self.min_lr / learning_rate)
            self.num_cooling, self.num_bad = self.cooldown, 0

    def _better(self, metric: float) -> bool:
        assert self.best is not None
        if self.mode == "max":
            return metric > self.best * (1 + self.threshold)
        return metric < self.best * (1 - self.threshold)
