"""GRPO, DAPO, Dr. GRPO and GSPO: several answers to each prompt, each made likelier by how much it beats the others.

A step answers the prompts of the global batch `num_generations` times with the policy as it is, scores the answers,
and learns from them `grpo_iterations` times. There is no critic, and nothing is remembered from step to step. What an
update weighs is counted over all ranks before its first micro-batch, so that it does not depend on how it is cut.

The log-probabilities are those of the distribution that was sampled from as far as `temperature` goes; where top_p or
top_k cut it, the loss takes the answers as drawn from the whole (a note says so).
Equations and papers: `loss/group.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.data.collate import Batch
from tunesmith.data.store import ExampleStore
from tunesmith.loss.group import GROUP_FORMS, GroupTokens, group_advantages, group_loss, group_weight
from tunesmith.loss.scores import TokenScores, Want
from tunesmith.loss.token import StepOut
from tunesmith.model.scorer import Scorer
from tunesmith.train.answers import (
    Answers,
    answer_totals,
    micro_batches,
    token_logp,
    without_unfinished,
)
from tunesmith.train.rewards.combine import Scored
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Setup, Step, Sums, Update
from tunesmith.train.stages.on_policy import OnPolicyStage, moments_over_ranks


class GroupRelativePolicy(OnPolicyStage):
    """Stage `grpo`."""

    unit = "answers"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.needs_start = config.grpo_beta > 0
        form = GROUP_FORMS[config.grpo_loss]
        low, high = config.grpo_epsilon, config.grpo_epsilon_high
        self.clip = (low or form.clip[0], high or low or form.clip[1])
        self.scale_rewards = form.scale_rewards if config.scale_rewards == "auto" else config.scale_rewards

    def prepare(self, setup: Setup) -> None:
        """Open the reward models, and the reference when `grpo_beta` asks for one."""
        super().prepare(setup)
        config, (low, high) = self.config, self.clip
        setup.say(
            f"{config.grpo_loss}: {config.num_generations} answers per prompt, ratios clipped to "
            f"[{1 - low:g}, {1 + high:g}], advantages scaled by {self.scale_rewards}"
        )

    def updates(self, step: Step) -> Iterator[Update]:
        """Answer, score, compare, and learn from the answers `grpo_iterations` times."""
        started_s = time.monotonic()
        answers, scored = self.answer(step, self.config.num_generations)
        metrics = answer_totals(answers, scored, time.monotonic() - started_s)
        store, has_signal_E, deviation = self._compare(answers, scored, step.runtime)
        metrics["frac_reward_zero_std"] = (float((~has_signal_E).sum()), float(len(has_signal_E)))
        if self.config.mask_truncated_completions:
            store = without_unfinished(store, answers.rollouts)
        if self.config.skip_equal_rewards:
            store = store.select(np.flatnonzero(has_signal_E))
        store = self._with_logp(store, step.scorer)
        measured = {**Sums(metrics).over_ranks(step.runtime).totals, "reward_std": (deviation, 1.0)}
        update = self._update(store, step.runtime)
        for iteration in range(self.config.grpo_iterations):
            yield replace(update, metrics=measured if iteration == 0 else {})

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """The clipped loss of the row's answers."""
        config = self.config
        scores: TokenScores = scorer(batch, Want(correct=False, temperature=config.temperature))
        values = batch.token_values
        tokens = GroupTokens(
            scores.logp_N,
            values.get("old_logp"),
            values.get("ref_logp"),
            batch.sequence_values["advantage"],
            scores.sequence_N,
        )
        return group_loss(tokens, config.grpo_loss, clip=self.clip, beta=config.grpo_beta, max_tokens=self._longest)

    @property
    def _longest(self) -> int:
        return self.config.max_new_tokens or self.config.max_length

    def _compare(
        self, answers: Answers, scored: Scored, runtime: Runtime
    ) -> tuple[ExampleStore, npt.NDArray[np.bool_], float]:
        """The store with advantages, which groups have rewards that differ, and the deviation of all rewards."""
        reward_S = torch.tensor(scored.totals, dtype=torch.float64)
        num_groups, num = len(answers.store), self.config.num_generations
        group_S = torch.arange(num_groups).repeat_interleave(num)
        batch = moments_over_ranks(runtime, reward_S)
        scale = self.scale_rewards
        advantage_S = group_advantages(reward_S, group_S, num_groups, scale=scale, batch=batch)  # type: ignore[arg-type]
        reward_EG = reward_S.reshape(num_groups, num)
        has_signal_E: Tensor = (reward_EG != reward_EG[:, :1]).any(dim=1)
        store = answers.store.with_values(per_sequence={"advantage": advantage_S.numpy()})
        return store, has_signal_E.numpy(), batch.std

    def _with_logp(self, store: ExampleStore, scorer: Scorer) -> ExampleStore:
        """Log-probabilities of the answers before the first update, as far as the loss looks at them."""
        batches = micro_batches(store, self.config)
        numbers: dict[str, npt.NDArray[np.float32]] = {}
        if self.config.grpo_iterations > 1:
            numbers["old_logp"] = token_logp(scorer, store, batches, self.config.temperature)
        if self._reference is not None:
            with self._reference.active() as reference:
                numbers["ref_logp"] = token_logp(reference, store, batches, self.config.temperature)
        return store.with_values(per_token=numbers)

    def _update(self, store: ExampleStore, runtime: Runtime) -> Update:
        """The update from the answers of all ranks."""
        num_answers = int(store.first_sequence[-1])
        weight = group_weight(self.config.grpo_loss, num_answers, store.num_trained_tokens, self._longest)
        weight, num_tokens = runtime.sum([weight, float(store.num_tokens)])
        members, batches = tuple(range(len(store))), micro_batches(store, self.config)
        # weight 0: nothing is left to learn from, and the sum that it divides is 0 too
        return Update(store, batches, weight or 1.0, members, int(num_tokens))
