"""Evaluation loss in constant memory: flat micro-batches no larger than training's, sums only, nothing kept.

The loss is the mean over all trained tokens of the set, not a mean of means over batches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import torch
from torch import nn

from tunesmith.data.collate import collate
from tunesmith.data.plan import plan_evaluation
from tunesmith.data.store import ExampleStore
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Stage


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates every set; `sets` maps a name ("" for the only one) to its examples."""

    runtime: Runtime
    stage: Stage
    sets: Mapping[str, ExampleStore]
    micro_batch_tokens: int
    with_accuracy: bool

    @property
    def metric_names(self) -> list[str]:
        """What `metric_for_best_model` may name."""
        names = ["", *self.sets] if len(self.sets) > 1 else list(self.sets)
        kinds = ["loss", "accuracy"] if self.with_accuracy else ["loss"]
        return [f"{_prefix(name)}{kind}" for name in names for kind in kinds]

    def evaluate(self, scorer: nn.Module) -> dict[str, float]:
        """`eval_loss`, with accuracy where asked for, and the time and rate of it.

        Several sets: `eval_NAME_loss` each, and `eval_loss` over the tokens of all.
        """
        was_training = scorer.training
        scorer.eval()
        results: dict[str, float] = {}
        total = _Sums()
        try:
            for name, store in self.sets.items():
                started_s = time.monotonic()
                sums = self._evaluate_set(scorer, store)
                total = total.plus(sums)
                elapsed_s = max(time.monotonic() - started_s, 1e-9)
                speed = {"runtime": round(elapsed_s, 3), "samples_per_second": round(len(store) / elapsed_s, 3)}
                results |= {_prefix(name) + key: value for key, value in {**sums.metrics(), **speed}.items()}
        finally:
            scorer.train(was_training)
        return {**results, **{"eval_" + key: value for key, value in total.metrics().items()}}

    @torch.no_grad()
    def _evaluate_set(self, scorer: nn.Module, store: ExampleStore) -> _Sums:
        plan = plan_evaluation(store.lengths.tolist(), self.micro_batch_tokens, self.runtime.world_size)
        sums = _Sums()
        module = getattr(scorer, "module", scorer)  # no gradients to exchange: past the data parallel wrapper
        for micro in plan.micro_batches[self.runtime.rank]:
            out = self.stage.step(module, collate(store, micro).to(self.runtime.device))
            right, counted = out.metrics.get("accuracy", (0.0, 0.0)) if self.with_accuracy else (0.0, 0.0)
            sums = sums.plus(_Sums(float(out.loss_sum), float(out.weight), float(right), float(counted)))
        return _Sums(*self.runtime.sum(astuple(sums)))


@dataclass(frozen=True, slots=True)
class _Sums:
    """What an evaluation adds up; means are taken once, at the end."""

    loss: float = 0.0
    weight: float = 0.0
    right: float = 0.0
    counted: float = 0.0

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def metrics(self) -> dict[str, float]:
        means = {"loss": self.loss / self.weight}
        return {**means, "accuracy": self.right / self.counted} if self.counted else means


def _prefix(name: str) -> str:
    return f"eval_{name}_" if name else "eval_"
