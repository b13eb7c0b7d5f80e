"""Preference training (DPO and its relatives): a better and a worse answer to one prompt, a loss on each pair.

Which loss, and what it needs, is a line of `loss.preference.PREFERENCE_LOSSES`. The reference's log-probabilities are
computed once, before the first step; prompt and both answers lie in one document, so the prompt is computed once too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.data.collate import Batch
from tunesmith.data.store import ExampleStore
from tunesmith.loss.preference import (
    PREFERENCE_LOSSES,
    PairScores,
    PreferenceSettings,
    length_weights,
    preference_loss,
    reward_metrics,
)
from tunesmith.loss.scores import TokenScores, Want
from tunesmith.loss.token import StepOut
from tunesmith.train.reference import Reference, make_reference, reference_logp
from tunesmith.train.stage import Setup, Stage


class DirectPreference(Stage):
    """Stage `dpo`."""

    unit = "pairs"
    eval_metrics = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
    plots = ("loss", "rewards/accuracies")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        entry = PREFERENCE_LOSSES[config.pref_loss]
        self.needs_reference = entry.needs_reference
        self.needs_start = self.needs_reference
        self._reference: Reference | None = None

    def prepare(self, setup: Setup) -> None:
        """Make the reference, and say which one it is."""
        if self.needs_reference:
            self._reference = make_reference(setup)
            setup.say(f"reference: {self._reference.label}")

    def with_numbers(self, store: ExampleStore, setup: Setup) -> ExampleStore:
        """The reference's log-probability of every answer beside it."""
        if self._reference is None:
            return store
        return store.with_values(per_sequence={"ref_logp": reference_logp(self._reference, store, setup)})

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Every pair counts once."""
        return np.ones(len(store))

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """The preference loss of the row's pairs."""
        scores: TokenScores = scorer(batch, Want(correct=False))
        logp_S = self._answer_logp(scores)
        ref_S = batch.sequence_values.get("ref_logp")
        chosen, rejected = slice(0, None, 2), slice(1, None, 2)
        pairs = PairScores(
            logp_S[chosen],
            logp_S[rejected],
            None if ref_S is None else ref_S[chosen],
            None if ref_S is None else ref_S[rejected],
            scores.weight_S[chosen],
            scores.weight_S[rejected],
        )
        out = preference_loss(self.config.pref_loss, pairs, self._settings())
        metrics = reward_metrics(out.chosen_reward_P, out.rejected_reward_P)
        num_pairs = torch.tensor(float(batch.num_examples), device=logp_S.device)
        for name, part in (("logps/chosen", chosen), ("logps/rejected", rejected)):
            metrics[name] = (logp_S[part].detach().sum(), num_pairs)
        return StepOut(out.loss_P.sum(), num_pairs, metrics)

    def _answer_logp(self, scores: TokenScores) -> Tensor:
        """Log-probability of each answer, (S); with `ld_alpha` what only the longer one has counts less."""
        if self.config.ld_alpha is None:
            return scores.logp_S
        pairs_P2 = torch.arange(scores.num_sequences, device=scores.logp_N.device).reshape(-1, 2)
        shorter_N = length_weights(scores.sequence_N, pairs_P2, self.config.ld_alpha)
        return scores.sum_by_sequence(scores.logp_N * scores.weight_N * shorter_N)

    def _settings(self) -> PreferenceSettings:
        config = self.config
        return PreferenceSettings(
            beta=config.pref_beta,
            label_smoothing=config.dpo_label_smoothing,
            simpo_gamma=config.simpo_gamma,
            ftx=config.pref_ftx,
            bco_weight=config.pref_bco_weight,
        )
