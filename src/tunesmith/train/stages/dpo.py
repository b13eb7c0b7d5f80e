"""Preference training (DPO and its relatives): a better and a worse answer to one prompt, a loss on each pair.

Which loss, and what it needs, is a line of `loss.preference.PREFERENCE_LOSSES`. The reference's log-probabilities are
computed once, before the first step; prompt and both answers lie in one document, so the prompt is computed once too.
Nothing is dropped out, in the policy as in the reference: a log-ratio is to be zero where the two are the same.

Two losses compare a pair with the whole batch: `kto_pair` with the mean score of each side, `bco_pair` (and
`pref_bco_weight`) with the mean of all rewards so far. For them the batch is scored once more, without gradients,
before it is learnt from, so the numbers are the same however it is cut. The running mean is part of a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.data.collate import Batch
from tunesmith.data.store import ExampleStore
from tunesmith.loss.moments import Moments
from tunesmith.loss.preference import (
    PREFERENCE_LOSSES,
    PairScores,
    PreferenceSettings,
    length_weights,
    pair_scores,
    preference_loss,
    reward_metrics,
)
from tunesmith.loss.scores import TokenScores, Want
from tunesmith.loss.token import StepOut
from tunesmith.train.dropout import silence_dropout
from tunesmith.train.reference import Reference, make_reference, reference_logp
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Setup, Stage, Update, observed

REWARDS = "rewards"
"""Name in `state` of the moments (count, mean, sum of squared deviations) of all rewards so far."""


CHOSEN, REJECTED = slice(0, None, 2), slice(1, None, 2)


@dataclass(frozen=True, slots=True)
class BatchNumbers:
    """What a whole batch says: moments of the rewards of both sides, and each side's mean score, clamped at 0."""

    rewards: Moments = field(default_factory=Moments)
    chosen_kl: float = 0.0
    rejected_kl: float = 0.0


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
        self._runs_mean = config.pref_loss == "bco_pair" or config.pref_bco_weight > 0
        self._asks_batch = self._runs_mean or config.pref_loss == "kto_pair"
        self._reference: Reference | None = None
        self._batch = BatchNumbers()

    def prepare(self, setup: Setup) -> None:
        """Make the reference, and say which one it is."""
        silence_dropout(setup)
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

    def before_update(self, scorer: nn.Module, update: Update, runtime: Runtime) -> None:
        """Measure the whole batch where the loss asks for it, and add its rewards to those of all steps."""
        if not self._asks_batch:
            return
        self._batch = self._measure(scorer, update, runtime)
        if self._runs_mean:
            merged = self._rewards_so_far().merge(self._batch.rewards)
            self.state[REWARDS] = [merged.count, merged.mean, merged.squares]

    def before_evaluation(self, scorer: nn.Module, update: Update, runtime: Runtime) -> None:
        """Measure the evaluation set; the rewards that training has seen stay as they are."""
        if self._asks_batch:
            self._batch = self._measure(scorer, update, runtime)

    def _measure(self, scorer: nn.Module, update: Update, runtime: Runtime) -> BatchNumbers:
        """One pass over the update without gradients; sums over all micro-batches and ranks."""
        sums = torch.zeros(6, dtype=torch.float64)
        for batch, scores in observed(scorer, update, runtime):
            sides = pair_scores(self.config.pref_loss, self._pairs(batch, scores))
            rewards_2P = self.config.pref_beta * torch.cat(sides)
            totals = [side.double().sum() for side in sides]
            count = torch.tensor(float(batch.num_examples), dtype=torch.float64)
            sums += torch.stack([*Moments.sums(rewards_2P), *totals, count]).cpu()
        summed = torch.tensor(runtime.sum(sums.tolist()), dtype=torch.float64)
        chosen, rejected, num_pairs = (float(number) for number in summed[3:])
        if not num_pairs:
            return BatchNumbers()
        return BatchNumbers(Moments.from_sums(summed[:3]), max(0.0, chosen / num_pairs), max(0.0, rejected / num_pairs))

    def _rewards_so_far(self) -> Moments:
        return Moments(*self.state.get(REWARDS, ()))

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """The preference loss of the row's pairs."""
        scores: TokenScores = scorer(batch, Want(correct=False))
        pairs = self._pairs(batch, scores)
        out = preference_loss(self.config.pref_loss, pairs, self._settings())
        metrics = reward_metrics(out.chosen_reward_P, out.rejected_reward_P)
        num_pairs = torch.tensor(float(batch.num_examples), device=out.loss_P.device)
        for name, logp_P in (("logps/chosen", pairs.chosen_logp_P), ("logps/rejected", pairs.rejected_logp_P)):
            metrics[name] = (logp_P.detach().sum(), num_pairs)
        return StepOut(out.loss_P.sum(), num_pairs, metrics)

    def _pairs(self, batch: Batch, scores: TokenScores) -> PairScores:
        """Chosen and rejected answers of the row: of its sequences the even and the odd ones."""
        logp_S, tokens_S = self._answer_logp(scores), scores.weight_S
        ref_S = batch.sequence_values.get("ref_logp")
        return PairScores(
            logp_S[CHOSEN],
            logp_S[REJECTED],
            None if ref_S is None else ref_S[CHOSEN],
            None if ref_S is None else ref_S[REJECTED],
            tokens_S[CHOSEN],
            tokens_S[REJECTED],
        )

    def _answer_logp(self, scores: TokenScores) -> Tensor:
        """Log-probability of each answer, (S); with `ld_alpha` what only the longer one has counts less."""
        if self.config.ld_alpha is None:
            return scores.logp_S
        pairs_P2 = torch.arange(scores.num_sequences, device=scores.logp_N.device).reshape(scores.num_sequences // 2, 2)
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
            reward_mean=self._rewards_so_far().mean,
            chosen_kl=self._batch.chosen_kl,
            rejected_kl=self._batch.rejected_kl,
        )
