"""Evaluation in constant memory: flat micro-batches no larger than training's, sums only, nothing kept.

The loss is the mean over everything that the stage counts (tokens, pairs) in the set, not a mean of means over batches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from tunesmith.data.store import ExampleStore
from tunesmith.model.evaluating import evaluating
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Stage, Sums


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates every set; `sets` maps a name ("" for the only one) to its examples."""

    runtime: Runtime
    stage: Stage
    sets: Mapping[str, ExampleStore]
    micro_batch_tokens: int

    @property
    def metric_names(self) -> list[str]:
        """What `metric_for_best_model` may name."""
        names = ["", *self.sets] if len(self.sets) > 1 else list(self.sets)
        return [f"{_prefix(name)}{kind}" for name in names for kind in self.stage.eval_metrics]

    def evaluate(self, scorer: nn.Module) -> dict[str, float]:
        """`eval_loss` and the stage's other metrics, and the time and rate of it.

        Several sets: `eval_NAME_loss` each, and `eval_loss` over all.
        """
        results: dict[str, float] = {}
        total = Sums()
        module = getattr(scorer, "module", scorer)  # no gradients to exchange: past the data parallel wrapper
        for name, store in self.sets.items():
            started_s = time.monotonic()
            with evaluating(scorer):
                own = self.stage.evaluate(module, store, self.runtime, self.micro_batch_tokens)
            sums = own.over_ranks(self.runtime)
            total = total.plus(sums)
            elapsed_s = max(time.monotonic() - started_s, 1e-9)
            speed = {"runtime": round(elapsed_s, 3), "samples_per_second": round(len(store) / elapsed_s, 3)}
            results |= {_prefix(name) + key: value for key, value in {**self._means(sums), **speed}.items()}
        return {**results, **{"eval_" + key: value for key, value in self._means(total).items()}}

    def _means(self, sums: Sums) -> dict[str, float]:
        return self.stage.summarize(sums.means())


def _prefix(name: str) -> str:
    return f"eval_{name}_" if name else "eval_"
