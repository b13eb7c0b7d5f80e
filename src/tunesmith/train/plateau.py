"""The two schedules that follow the evaluations: reduce_lr_on_plateau and greedy.

Both keep a factor on the learning rate and a few counters, which the loop stores with its state, so that a resumed
run goes on as the unbroken one. Plateau is torch's ReduceLROnPlateau, greedy is transformers' GreedyLR
(arXiv 2512.14527); the factor stands for their learning rate divided by the highest one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Follower(Protocol):
    """A schedule that evaluations move; all attributes are numbers, text or lists of them."""

    scale: float

    def observe(self, metric: float, learning_rate: float) -> None:
        """Take in one evaluation; `learning_rate` is the one that `scale` multiplies."""


def _beats(metric: float, best: float, mode: str, threshold: float, threshold_mode: str) -> bool:
    """Whether a metric is better than the best by more than the threshold, relative or absolute."""
    if mode == "max":
        return metric > (best + threshold if threshold_mode == "abs" else best * (1 + threshold))
    return metric < (best - threshold if threshold_mode == "abs" else best * (1 - threshold))


@dataclass
class Plateau:
    """Lowers the learning rate when the evaluation metric stops getting better.

    A metric counts as better when it beats the best by `threshold`; after more than `patience` evaluations
    without that, the factor is multiplied by `factor`, then `cooldown` evaluations do not count. A change of the
    learning rate by no more than `eps` is left out.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    mode: str = "min"
    scale: float = 1.0
    best: float | None = None
    num_bad: int = 0
    num_cooling: int = 0

    def observe(self, metric: float, learning_rate: float) -> None:
        """Take in one evaluation."""
        if self.best is None or _beats(metric, self.best, self.mode, self.threshold, self.threshold_mode):
            self.best, self.num_bad = metric, 0
        else:
            self.num_bad += 1
        if self.num_cooling > 0:
            self.num_cooling, self.num_bad = self.num_cooling - 1, 0
        if self.num_bad > self.patience:
            self._lower(learning_rate)
            self.num_cooling, self.num_bad = self.cooldown, 0

    def _lower(self, learning_rate: float) -> None:
        lowered = max(self.scale * self.factor, self.min_lr / learning_rate)
        if (self.scale - lowered) * learning_rate > self.eps:
            self.scale = lowered


@dataclass
class Greedy:
    """Raises the learning rate while the metric keeps getting better and lowers it when it stops.

    More than `patience` better evaluations in a row divide it by `factor`, as many without an improvement multiply it;
    `warmup` and `cooldown` evaluations after a change do not count. It stays between `min_lr` and `max_lr`; after
    `reset_start` lowerings in vain at the bottom everything starts anew. `smooth` averages the last `window_size`
    metrics.
    """

    factor: float = 0.95
    patience: int = 10
    threshold: float = 1e-6
    threshold_mode: str = "abs"
    cooldown: int = 0
    warmup: int = 0
    min_lr: float = 1e-3
    max_lr: float = 1.0
    eps: float = 1e-8
    smooth: bool = False
    window_size: int = 50
    reset_start: int = 500
    mode: str = "min"
    scale: float = 1.0
    best: float | None = None
    num_bad: int = 0
    num_good: int = 0
    num_cooling: int = 0
    num_warming: int = 0
    num_stuck: int = 0
    recent: tuple[float, ...] = ()

    def observe(self, metric: float, learning_rate: float) -> None:
        """Take in one evaluation."""
        if self.smooth:
            self.recent = (*self.recent, metric)[-self.window_size :]
            metric = sum(self.recent) / len(self.recent)
        if self.num_cooling > 0 or self.num_warming > 0:
            self.num_warming -= self.num_cooling == 0
            self.num_cooling = max(0, self.num_cooling - 1)
            self.num_bad = self.num_good = 0
            return
        if self.best is None or _beats(metric, self.best, self.mode, self.threshold, self.threshold_mode):
            self.best, self.num_bad, self.num_good = metric, 0, self.num_good + 1
        else:
            self.num_bad, self.num_good = self.num_bad + 1, 0
        if self.num_good > self.patience:
            self._raise(learning_rate)
            self.num_warming, self.num_good = self.warmup, 0
        elif self.num_bad > self.patience:
            self._lower(learning_rate)
            self.num_cooling, self.num_bad = self.cooldown, 0

    def _raise(self, learning_rate: float) -> None:
        raised = min(self.scale / self.factor, self.max_lr / learning_rate)
        if (raised - self.scale) * learning_rate > self.eps:
            self.scale = raised
        self.num_stuck = 0

    def _lower(self, learning_rate: float) -> None:
        lowered = max(self.scale * self.factor, self.min_lr / learning_rate)
        if (self.scale - lowered) * learning_rate > self.eps:
            self.scale = lowered
        if self.scale * learning_rate > self.min_lr:
            return
        self.num_stuck += 1
        if self.num_stuck >= self.reset_start:
            self.scale, self.best, self.recent = 1.0, None, ()
            self.num_bad = self.num_good = self.num_cooling = self.num_warming = self.num_stuck = 0
