"""Cross-entropy over supervised tokens: the loss of `pt` and `sft`.

A loss returns a sum and the weight of that sum; it never divides. Only the loop divides, once, by the
weight of the whole global batch, so that the update does not depend on how the batch is cut up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tunesmith.loss.scores import TokenScores


@dataclass(frozen=True, slots=True)
class StepOut:
    """What a micro-batch contributes: `loss_sum` () fp32 with a graph, its `weight` (), and sums of metrics.

    A metric is (sum, weight): the two are added up over micro-batches and ranks before they are divided.
    """

    loss_sum: Tensor
    weight: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def cross_entropy(scores: TokenScores) -> StepOut:
    """Weighted negative log-likelihood, in nats, summed over the supervised tokens; weight: their total weight."""
    loss_sum = -(scores.logp_N * scores.weight_N).sum()
    weight = scores.weight_N.sum()
    metrics = {}
    if scores.correct_N is not None:
        metrics["accuracy"] = ((scores.correct_N * scores.weight_N).sum(), weight)
    return StepOut(loss_sum, weight, metrics)
