"""Evaluation loss in constant memory: flat micro-batches no larger than training's, sums only, nothing kept.

The loss is the mean over all trained tokens of the set, not a mean of means over batches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

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

    def evaluate(self, scorer: nn.Module) -> dict[str, float]:
        """`eval_loss` (`eval_NAME_loss`), with accuracy where asked for, and the time and rate of it."""
        was_training = scorer.training
        scorer.eval()
        results: dict[str, float] = {}
        try:
            for name, store in self.sets.items():
                prefix = f"eval_{name}_" if name else "eval_"
                results |= {prefix + key: value for key, value in self._evaluate_set(scorer, store).items()}
        finally:
            scorer.train(was_training)
        return results

    @torch.no_grad()
    def _evaluate_set(self, scorer: nn.Module, store: ExampleStore) -> dict[str, float]:
        started_s = time.monotonic()
        plan = plan_evaluation(store.lengths.tolist(), self.micro_batch_tokens, self.runtime.world_size)
        loss_sum = weight = accuracy_sum = accuracy_weight = 0.0
        module = getattr(scorer, "module", scorer)  # no gradients to exchange: past the data parallel wrapper
        for micro in plan.micro_batches[self.runtime.rank]:
            out = self.stage.step(module, collate(store, micro).to(self.runtime.device))
            loss_sum += float(out.loss_sum)
            weight += float(out.weight)
            if self.with_accuracy and "accuracy" in out.metrics:
                right, counted = out.metrics["accuracy"]
                accuracy_sum, accuracy_weight = accuracy_sum + float(right), accuracy_weight + float(counted)
        loss_sum, weight, accuracy_sum, accuracy_weight = self.runtime.sum(
            [loss_sum, weight, accuracy_sum, accuracy_weight]
        )
        results = {"loss": loss_sum / weight}
        if accuracy_weight:
            results["accuracy"] = accuracy_sum / accuracy_weight
        elapsed_s = max(time.monotonic() - started_s, 1e-9)
        return {**results, "runtime": round(elapsed_s, 3), "samples_per_second": round(len(store) / elapsed_s, 3)}
