"""Reward models: a head on the last hidden state of an answer scores it; the preferred one shall score higher."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tunesmith.data.collate import Batch
from tunesmith.data.store import ExampleStore
from tunesmith.loss.reward import pairwise_loss, score_metrics
from tunesmith.loss.scores import TokenScores, Want
from tunesmith.loss.token import StepOut
from tunesmith.train.stage import Setup, Stage


class RewardModeling(Stage):
    """Stage `rm`."""

    unit = "pairs"
    eval_metrics = ("loss", "accuracy", "margin")
    plots = ("loss", "accuracy")
    needs_value_head = True

    def prepare(self, setup: Setup) -> None:
        """The output head is not asked for anything, so it is not trained."""
        head = setup.scorer.model.get_output_embeddings()
        tied = head.weight is setup.scorer.model.get_input_embeddings().weight
        if not tied:
            head.requires_grad_(False)

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Every pair counts once."""
        return np.ones(len(store))

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """The pairwise loss of the row's pairs."""
        scores_S = answer_scores(scorer, batch)
        chosen_P, rejected_P = scores_S[0::2], scores_S[1::2]
        num_pairs = torch.tensor(float(batch.num_examples), device=scores_S.device)
        return StepOut(pairwise_loss(chosen_P, rejected_P).sum(), num_pairs, score_metrics(chosen_P, rejected_P))


def answer_scores(scorer: nn.Module, batch: Batch) -> Tensor:
    """The value at the last token of every sequence of the row, (S), fp32."""
    scores: TokenScores = scorer(batch, Want(logp=False, values=True))
    assert scores.values_T is not None
    return scores.values_T[batch.ends_S]
