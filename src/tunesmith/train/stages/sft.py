"""Supervised fine-tuning: cross-entropy on the answers, averaged over all trained tokens of the global batch.

Variants weigh the tokens otherwise (DFT, EAFT), hold the model to where it started (ASFT), or spread a little of the
target over the vocabulary (label smoothing). What needs whole rows of logits is computed where they are, in chunks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.data.collate import Batch
from tunesmith.data.store import ExampleStore
from tunesmith.loss import reweight
from tunesmith.loss.scores import LogitFunction, TokenScores, Want
from tunesmith.loss.token import StepOut, cross_entropy
from tunesmith.train.reference import Reference, make_reference
from tunesmith.train.stage import Setup, Stage


class SupervisedFineTuning(Stage):
    """Stage `sft`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.compute_accuracy:
            self.eval_metrics = ("loss", "accuracy")
        self.needs_start = config.use_asft_loss
        self._reference: Reference | None = None

    def prepare(self, setup: Setup) -> None:
        """ASFT needs the distribution that it is anchored to, token by token, at every step."""
        if self.config.use_asft_loss:
            self._reference = make_reference(setup)
            setup.say(f"reference: {self._reference.label}")

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Total token weight of each example."""
        return token_weights(store)

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """Weighted loss of the row's supervised tokens; evaluations always report the plain cross-entropy."""
        with_accuracy = self.config.compute_accuracy and not scorer.training
        if not scorer.training:
            return cross_entropy(scorer(batch, Want(correct=with_accuracy)))
        scores: TokenScores = scorer(batch, Want(correct=False, function=self._function(batch)))
        loss_sum, weight = reweight.weighted_sum(self._loss(scores), scores.weight_N)
        return StepOut(loss_sum, weight)

    def _function(self, batch: Batch) -> LogitFunction | None:
        """What the chosen loss wants to know of the logits."""
        if self.config.use_eaft_loss:
            return reweight.topk_entropy
        if self._reference is not None:
            return reweight.reference_kl_function(_logits_of(self._reference, batch))
        return reweight.mean_logp if self.config.label_smoothing_factor else None

    def _loss(self, scores: TokenScores) -> Tensor:
        config = self.config
        if config.use_dft_loss:
            return reweight.dft_loss(scores.logp_N)
        if config.use_eaft_loss:
            return reweight.eaft_loss(scores.logp_N, scores.extra["entropy"], alpha=config.eaft_alpha)
        if config.use_asft_loss:
            return reweight.asft_loss(scores.logp_N, scores.extra["kl"], alpha=config.asft_alpha)
        if config.label_smoothing_factor:
            epsilon = config.label_smoothing_factor
            return reweight.smoothed_loss(scores.logp_N, scores.extra["mean_logp"], epsilon=epsilon)
        return -scores.logp_N


def token_weights(store: ExampleStore) -> npt.NDArray[np.float64]:
    """Total token weight of each example; its first token is never predicted, so it does not count. float64[N]."""
    total = np.add.reduceat(store.weights.astype(np.float64), store.offsets[:-1])
    return total - store.weights[store.offsets[:-1]]


def _logits_of(reference: Reference, batch: Batch) -> reweight.LogitsOfPart:
    """The reference's logits for a part of the batch's supervised tokens; its decoder runs once."""
    with reference.active() as scorer:
        hidden_ND = scorer.hidden(batch)[batch.where_N]

    def logits(part: slice) -> Tensor:
        with reference.active() as scorer:
            return scorer.logits(hidden_ND[part])

    return logits
