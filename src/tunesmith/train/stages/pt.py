"""Continued pretraining: cross-entropy on every token of the documents, their end token included."""

from __future__ import annotations

import math

from tunesmith.config import Config
from tunesmith.train.stages.sft import SupervisedFineTuning


class Pretraining(SupervisedFineTuning):
    """Stage `pt`. Evaluations report the perplexity, exp(loss), as well."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.eval_metrics = (*self.eval_metrics, "perplexity")

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Perplexity from the mean loss; infinite where that is beyond what a float holds."""
        loss = means["loss"]
        return {**means, "perplexity": math.exp(loss) if loss < 700 else math.inf}
