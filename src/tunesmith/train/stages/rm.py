"""Reward models: a head on the last hidden state of an answer scores it; the preferred one shall score higher.

The head is saved as `value_head.safetensors` beside the adapter or the model, and taken up again from there, so a
reward model can be trained further. With `do_predict: true` the scores of the evaluation pairs are written down.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tunesmith.data.collate import Batch, collate
from tunesmith.data.plan import plan_evaluation
from tunesmith.data.store import ExampleStore
from tunesmith.loss.reward import pairwise_loss, score_metrics
from tunesmith.loss.scores import TokenScores, Want
from tunesmith.loss.token import StepOut
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Setup, Stage


class RewardModeling(Stage):
    """Stage `rm`."""

    unit = "pairs"
    eval_metrics = ("loss", "accuracy", "margin")
    plots = ("loss", "accuracy")
    needs_value_head = True

    def prepare(self, setup: Setup) -> None:
        """The output head is not asked for anything, so it is not trained, unless it is the input embeddings too."""
        head = setup.scorer.model.get_output_embeddings()
        tied = head.weight is setup.scorer.model.get_input_embeddings().weight
        if tied or not any(parameter.requires_grad for parameter in head.parameters()):
            return
        head.requires_grad_(False)
        setup.say("note: stage rm reads no logits, so the output head (lm_head) is not trained")

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Every pair counts once."""
        return np.ones(len(store))

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """The pairwise loss of the row's pairs."""
        scores_S = answer_scores(scorer, batch)
        chosen_P, rejected_P = scores_S[0::2], scores_S[1::2]
        num_pairs = torch.tensor(float(batch.num_examples), device=scores_S.device)
        return StepOut(pairwise_loss(chosen_P, rejected_P).sum(), num_pairs, score_metrics(chosen_P, rejected_P))

    def predict(
        self, scorer: nn.Module, store: ExampleStore, runtime: Runtime, micro_batch_tokens: int
    ) -> list[dict[str, float]]:
        """Both scores of every pair, in the order of the rows."""
        plan = plan_evaluation(store.lengths.tolist(), micro_batch_tokens, runtime.world_size)
        scores_P2 = np.zeros((len(store), 2))
        with torch.no_grad():
            for micro in plan.micro_batches[runtime.rank]:
                scores_S = answer_scores(scorer, collate(store, micro).to(runtime.device))
                scores_P2[list(micro)] = scores_S.reshape(len(micro), 2).double().cpu().numpy()
        summed = np.asarray(runtime.sum(scores_P2.flatten().tolist())).reshape(-1, 2)
        return [{"chosen": float(chosen), "rejected": float(rejected)} for chosen, rejected in summed]

    def judge(self, lines: list[dict[str, Any]]) -> dict[str, float]:
        """Loss, accuracy and margin over all pairs."""
        chosen_P, rejected_P = (torch.tensor([line[side] for line in lines]) for side in ("chosen", "rejected"))
        sums = score_metrics(chosen_P, rejected_P)
        means = {name: float(total / weight) for name, (total, weight) in sums.items()}
        return {"loss": float(pairwise_loss(chosen_P, rejected_P).mean()), **means}


def answer_scores(scorer: nn.Module, batch: Batch) -> Tensor:
    """The value at the last token of every sequence of the row, (S), fp32."""
    scores: TokenScores = scorer(batch, Want(logp=False, values=True))
    assert scores.values_T is not None
    return scores.values_T[batch.ends_S]
