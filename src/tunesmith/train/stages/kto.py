"""KTO: answers with a thumb up or down, compared with how far the policy has moved on the whole.

That measure is an estimate of KL(policy || reference) from answers to other prompts, which every example carries as a
second branch. It is taken over the whole global batch before anything is learnt from it, so it is the same however the
batch is cut. The first branch is read for the loss and the second for the measure, each in a pass of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tunesmith.config import Config
from tunesmith.data.collate import Batch
from tunesmith.data.kinds.feedback import DESIRABLE
from tunesmith.data.store import ExampleStore
from tunesmith.errors import ConfigError
from tunesmith.loss.feedback import chosen_token_loss, feedback_metrics, kl_estimate, kto_loss
from tunesmith.loss.scores import TokenScores, Want
from tunesmith.loss.token import StepOut
from tunesmith.train.dropout import silence_dropout
from tunesmith.train.reference import Reference, make_reference, reference_logp
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Setup, Stage, Update, observed

OWN, OTHER = 0, 1
"""An example's two branches: its own answer, and the answer to another prompt."""


class KahnemanTversky(Stage):
    """Stage `kto`."""

    unit = "answers"
    eval_metrics = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "kl")
    plots = ("loss", "rewards/chosen")
    needs_start = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._reference: Reference | None = None
        self._kl = 0.0
        self._other_answers: dict[ExampleStore, ExampleStore] = {}

    def prepare(self, setup: Setup) -> None:
        """Make the reference, and say which one it is."""
        silence_dropout(setup)
        self._reference = make_reference(setup)
        setup.say(f"reference: {self._reference.label}")

    def with_numbers(self, store: ExampleStore, setup: Setup) -> ExampleStore:
        """The own answers, the reference's log-probability beside each; those to other prompts are set aside."""
        assert self._reference is not None
        self._look_at_verdicts(store, setup)
        known = store.with_values(per_sequence={"ref_logp": reference_logp(self._reference, store, setup)})
        own = known.branch(OWN)
        self._other_answers[own] = known.branch(OTHER)
        return own

    def _look_at_verdicts(self, store: ExampleStore, setup: Setup) -> None:
        """Rows of one verdict (only evaluation sets may be so) have no contrast to report. Raises: ConfigError."""
        verdicts = store.per_example[DESIRABLE]
        if not len(verdicts) or 0 < verdicts.sum() < len(verdicts):
            return
        shown, lacking = ("true", "rewards/rejected") if verdicts.all() else ("false", "rewards/chosen")
        wanted = self.config.metric_for_best_model or ""
        if wanted.endswith((lacking, "rewards/margins")):
            raise ConfigError(
                f"metric_for_best_model is {wanted}, but all evaluation rows are labelled {shown}",
                where=str(store.ref(0)),
                fix="add rows of the other label to the evaluation set, or choose another metric",
            )
        setup.say(f"note: all {len(verdicts)} rows of an evaluation set are labelled {shown}: no {lacking}, no margins")

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Every answer counts once; class weights belong to the loss."""
        return np.ones(len(store))

    def before_update(self, scorer: nn.Module, update: Update, runtime: Runtime) -> None:
        """Estimate the divergence over the whole global batch, without gradients."""
        total, count = 0.0, 0.0
        for batch, scores in observed(scorer, replace(update, store=self._other_answers[update.store]), runtime):
            moved_S = scores.logp_S - batch.sequence_values["ref_logp"]
            total, count = total + float(moved_S.double().sum()), count + len(moved_S)
        total, count = runtime.sum([total, count])
        self._kl = kl_estimate(total, count)

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """The loss of the row's own answers."""
        config = self.config
        scores: TokenScores = scorer(batch, Want(correct=False))
        logp_E, tokens_E = scores.logp_S, scores.weight_S
        desirable_E = batch.example_values[DESIRABLE] > 0
        out = kto_loss(
            logp_E,
            batch.sequence_values["ref_logp"],
            desirable_E,
            kl=self._kl,
            beta=config.pref_beta,
            chosen_weight=config.kto_chosen_weight,
            rejected_weight=config.kto_rejected_weight,
        )
        loss_E = out.loss_S
        if config.pref_ftx:
            loss_E = loss_E + config.pref_ftx * chosen_token_loss(logp_E, tokens_E, desirable_E)
        num = torch.tensor(float(batch.num_examples), device=logp_E.device)
        metrics = {**feedback_metrics(out.reward_S, desirable_E), "kl": (num * self._kl, num)}
        return StepOut(loss_E.sum(), num, metrics)

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """The margin between the mean rewards of good and of bad answers."""
        if "rewards/chosen" not in means or "rewards/rejected" not in means:
            return means
        return {**means, "rewards/margins": means["rewards/chosen"] - means["rewards/rejected"]}
