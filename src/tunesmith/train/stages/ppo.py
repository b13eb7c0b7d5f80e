"""PPO: answers of the policy are scored by a reward, and made more or less likely within a clipped step.

A step answers a batch of prompts once, scores the answers, holds every token to the reference by a KL reward, and
learns from that batch `ppo_epochs` times. The critic is a value head beside the policy. Sums over the whole batch
(whitening, score normalisation, the KL controller) are taken over all ranks before the first update, so a step does not
depend on how it is cut. What it remembers from step to step - the KL coefficient and the running moments of the
scores - is in the checkpoint.

References: Ziegler et al. 2019, arXiv 1909.08593; Ouyang et al. 2022, arXiv 2203.02155; equations: `loss/policy.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.data.collate import Batch, collate, supervised_places
from tunesmith.data.plan import epoch_order
from tunesmith.data.store import ExampleStore
from tunesmith.loss.moments import Moments, whiten
from tunesmith.loss.policy import (
    KlController,
    Rollout,
    generalised_advantages,
    kl_k1,
    normalised_scores,
    ppo_loss,
    shaped_rewards,
)
from tunesmith.loss.scores import TokenScores, Want
from tunesmith.loss.token import StepOut
from tunesmith.model.evaluating import evaluating
from tunesmith.train.answers import answer_totals, micro_batches
from tunesmith.train.dropout import silence_dropout
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Setup, Step, Sums, Update
from tunesmith.train.stages.on_policy import OnPolicyStage, moments_over_ranks

TOKEN_NUMBERS = ("old_logp", "old_value", "advantage", "return")


@dataclass(frozen=True)
class _Measured:
    """What is known of N answer tokens before the first update, in the order of the store."""

    old_logp_N: Tensor
    old_value_N: Tensor
    ref_logp_N: Tensor
    sequence_N: Tensor


class ProximalPolicy(OnPolicyStage):
    """Stage `ppo`."""

    unit = "tokens"
    needs_start = True
    needs_value_head = True

    def prepare(self, setup: Setup) -> None:
        """Dropout off, so that ratios begin at 1. Raises: UserError when a reward model or reference does not fit."""
        silence_dropout(setup)
        super().prepare(setup)

    def updates(self, step: Step) -> Iterator[Update]:
        """Answer, score, and learn from the answers `ppo_epochs` times, in `ppo_buffer_size` parts each time."""
        started_s = time.monotonic()
        answers, scored = self.answer(step, 1)
        elapsed_s = time.monotonic() - started_s
        measured = self._measure(step, answers.store)
        score_S = torch.tensor(scored.totals, dtype=torch.float32)
        store, metrics = self._complete(step.runtime, answers.store, measured, score_S)
        metrics |= Sums(answer_totals(answers, scored, elapsed_s)).over_ranks(step.runtime).totals
        for epoch in range(self.config.ppo_epochs):
            for part in self._parts(step, answers.prompts, epoch):
                yield self._update(step.runtime, store, part, metrics)
                metrics = {}

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """The clipped policy and value losses of the row's answers."""
        scores: TokenScores = scorer(batch, Want(correct=False, values=True, temperature=self.config.temperature))
        assert scores.values_T is not None
        old = Rollout(*(batch.token_values[name] for name in TOKEN_NUMBERS))
        return ppo_loss(scores.logp_N, scores.values_T[batch.where_N], old)

    def _measure(self, step: Step, store: ExampleStore) -> _Measured:
        """Score this rank's answers with the policy, the critic and the reference, before anything is learnt."""
        assert self._reference is not None
        columns_3T = np.zeros((3, store.num_tokens), np.float32)
        want = Want(correct=False, temperature=self.config.temperature)
        for micro in micro_batches(store, self.config):
            batch = collate(store, micro).to(step.runtime.device)
            with evaluating(step.scorer):
                own = step.scorer(batch, replace(want, values=True))
            with self._reference.active() as reference:
                ref_logp_N = reference(batch, want).logp_N
            rows = (own.logp_N, own.values_T[batch.where_N], ref_logp_N)
            columns_3T[:, supervised_places(store, micro)] = torch.stack(rows).float().cpu().numpy()
        where_N = np.flatnonzero(store.weights)
        lengths = [store.piece_lengths(index)[1] for index in range(len(store))]  # of one answer per prompt
        sequence_N = torch.from_numpy(np.repeat(np.arange(len(store)), lengths))
        old_logp_N, old_value_N, ref_logp_N = torch.from_numpy(columns_3T[:, where_N])
        return _Measured(old_logp_N, old_value_N, ref_logp_N, sequence_N)

    def _complete(
        self, runtime: Runtime, store: ExampleStore, measured: _Measured, score_S: Tensor
    ) -> tuple[ExampleStore, dict[str, tuple[float, float]]]:
        """The store with what the losses need at every token, and what was measured of the KL divergence."""
        config, num_answers = self.config, len(score_S)
        controller = self._controller()
        score_S = normalised_scores(score_S, self._score_moments(runtime, score_S))
        reward_N = shaped_rewards(
            score_S, measured.old_logp_N, measured.ref_logp_N, measured.sequence_N, kl_coef=controller.coef
        )
        if config.ppo_whiten_rewards:
            reward_N = whiten(reward_N, moments_over_ranks(runtime, reward_N), shift_mean=False)
        advantage_N, return_N = generalised_advantages(
            reward_N,
            measured.old_value_N,
            measured.sequence_N,
            num_answers,
            gamma=config.ppo_gamma,
            lam=config.ppo_lambda,
        )
        advantage_N = whiten(advantage_N, moments_over_ranks(runtime, advantage_N))
        kl = float(kl_k1(measured.old_logp_N, measured.ref_logp_N).double().sum())
        kl, answers = runtime.sum([kl, num_answers])
        self.state["kl_coef"] = controller.after(kl / answers, int(answers)).coef
        columns = (measured.old_logp_N, measured.old_value_N, advantage_N, return_N)
        where_N = np.flatnonzero(store.weights)
        per_token = {}
        for name, values_N in zip(TOKEN_NUMBERS, columns, strict=True):
            per_token[name] = np.zeros(store.num_tokens, dtype=np.float32)
            per_token[name][where_N] = values_N.numpy()
        return store.with_values(per_token=per_token), {"kl": (kl, answers), "kl_coef": (controller.coef, 1.0)}

    def _controller(self) -> KlController:
        """The KL coefficient as it stands."""
        config = self.config
        target = config.ppo_target if config.ppo_adaptive_kl else None
        return KlController(self.state.get("kl_coef", config.ppo_kl_coef), target, config.ppo_kl_horizon)

    def _score_moments(self, runtime: Runtime, score_S: Tensor) -> Moments | None:
        """The running moments of all scores, these included; None unless scores are normalised."""
        if not self.config.ppo_score_norm:
            return None
        moments = Moments(**self.state.get("scores", {})).merge(moments_over_ranks(runtime, score_S))
        self.state["scores"] = asdict(moments)
        return moments

    def _parts(self, step: Step, prompts: Sequence[int], epoch: int) -> list[list[int]]:
        """This rank's examples of each part of a pass over the batch; a prompt's part does not depend on the ranks."""
        everyone = sorted(index for rank in step.plan.micro_batches for micro in rank for index in micro)
        num_parts = min(self.config.ppo_buffer_size, len(everyone))
        order = epoch_order(len(everyone), step.seed, step.number * self.config.ppo_epochs + epoch)
        part_of = {everyone[place]: turn * num_parts // len(everyone) for turn, place in enumerate(order)}
        return [[i for i, prompt in enumerate(prompts) if part_of[prompt] == part] for part in range(num_parts)]

    def _update(
        self, runtime: Runtime, store: ExampleStore, part: list[int], metrics: Mapping[str, tuple[float, float]]
    ) -> Update:
        chosen = store.select(part)
        trained, read = runtime.sum([float(np.count_nonzero(chosen.weights)), float(chosen.num_tokens)])
        return Update(
            chosen, micro_batches(chosen, self.config), trained, tuple(range(len(chosen))), int(read), metrics
        )
