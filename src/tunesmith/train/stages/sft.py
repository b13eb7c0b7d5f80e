"""Supervised fine-tuning: cross-entropy on the answers, averaged over all trained tokens of the global batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import nn

from tunesmith.config import Config
from tunesmith.data.collate import Batch
from tunesmith.data.store import ExampleStore
from tunesmith.loss.scores import Want
from tunesmith.loss.token import StepOut, cross_entropy
from tunesmith.train.stage import Stage


class SupervisedFineTuning(Stage):
    """Stage `sft`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.compute_accuracy:
            self.eval_metrics = ("loss", "accuracy")

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Total token weight of each example; its first token is never predicted, so it does not count."""
        total = np.add.reduceat(store.weights.astype(np.float64), store.offsets[:-1])
        return total - store.weights[store.offsets[:-1]]

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """Weighted negative log-likelihood of the row's supervised tokens."""
        with_accuracy = self.config.compute_accuracy and not scorer.training
        return cross_entropy(scorer(batch, Want(correct=with_accuracy)))
