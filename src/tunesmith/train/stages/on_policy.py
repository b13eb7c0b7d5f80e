"""What ppo and grpo share: prompts are answered by the policy as it is now, and a reward scores the answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.data.plan import plan_evaluation
from tunesmith.data.store import ExampleStore
from tunesmith.infer.engine import sampling_from_config
from tunesmith.loss.moments import Moments
from tunesmith.model.scorer import Scorer
from tunesmith.train.answers import EVALUATION_STEP, Answers, answer_totals, sample_answers
from tunesmith.train.reference import Reference, make_reference
from tunesmith.train.rewards.combine import Rewards, Scored
from tunesmith.train.rewards.sources import rewards_from_config
from tunesmith.train.runtime import Runtime
from tunesmith.train.samplelog import SampleLog
from tunesmith.train.stage import Setup, Stage, Step, Sums


class OnPolicyStage(Stage):
    """A stage that learns from its own answers. A subclass yields `updates` from what `answer` gives it."""

    plots = ("loss", "reward")
    learns_from_rows = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._reference: Reference | None = None
        self._rewards: Rewards | None = None
        self._setup: Setup | None = None
        self._samples: SampleLog | None = None

    def check_data(self, stores: Sequence[ExampleStore], config_dir: Path) -> None:
        """Name the sources of reward, and refuse rows that one of them cannot score. Raises: UserError."""
        self._rewards = rewards_from_config(self.config, config_dir)
        for store in stores:
            self._rewards.check_rows(store)
        names = [f"rewards/{label}" for label in self._rewards.labels]
        self.eval_metrics = ("reward", *names, "completion_length", "finished")

    def prepare(self, setup: Setup) -> None:
        """Open the reward models, and the reference where one is asked. Raises: UserError when one does not fit."""
        assert self._rewards is not None, "check_data comes first"
        self._setup = setup
        self._rewards.open(setup)
        if self.needs_start:
            self._reference = make_reference(setup)
            setup.say(f"reference: {self._reference.label}")
        if self.config.log_completions and setup.runtime.is_main:
            self._samples = SampleLog(setup.folder, self.config.num_completions_to_print)

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Prompts count equally; what an update weighs is known when they have been answered."""
        return np.ones(len(store))

    def answer(self, step: Step, num_answers: int) -> tuple[Answers, Scored]:
        """This rank's answers of a step, `num_answers` to each prompt, and their scores."""
        assert self._setup is not None
        assert self._rewards is not None
        renderer = self._setup.renderer
        params = sampling_from_config(self.config, renderer.stop_ids)
        answers = sample_answers(step, renderer.tokenizer, params, num_answers)
        scored = self._rewards.score(answers.samples)
        self._write_samples(step, answers, scored)
        return answers, scored

    def evaluate(self, scorer: nn.Module, store: ExampleStore, runtime: Runtime, micro_batch_tokens: int) -> Sums:
        """One answer to each held-out prompt, drawn as in training, with the same random numbers every time.

        Drawn rather than greedy: its mean reward is what training raises.
        """
        assert isinstance(scorer, Scorer)
        plan = plan_evaluation(store.lengths.tolist(), micro_batch_tokens, runtime.world_size)
        step = Step(EVALUATION_STEP, plan, store, self.example_weights(store), runtime, scorer, self.config.seed)
        totals = answer_totals(*self.answer(step, 1))
        return Sums({name: totals[name] for name in self.eval_metrics})

    def _write_samples(self, step: Step, answers: Answers, scored: Scored) -> None:
        every = max(1, int(self.config.logging_steps))
        if self._samples is not None and step.number != EVALUATION_STEP and (step.number + 1) % every == 0:
            self._samples.write(step.number + 1, answers.samples, scored)


def moments_over_ranks(runtime: Runtime, values: Tensor) -> Moments:
    """Moments of the values of all ranks."""
    return Moments.from_sums(torch.tensor(runtime.sum(Moments.sums(values).tolist()), dtype=torch.float64))
