"""Distillation (GKD): the student learns a teacher's distribution, token by token, on given and on its own answers.

`gkd_lambda` is the share of examples whose answer the student writes itself, so that it learns where it goes wrong; the
rest are the answers of the data set. Which ones is drawn for each (seed, step, example). With `gkd_topk` the teacher is
asked once about the given answers, before the first step, and only its k likeliest tokens are kept.
Reference: Agarwal et al. 2024, arXiv 2306.13649.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.data.collate import Batch, collate, supervised_places
from tunesmith.data.plan import plan_evaluation
from tunesmith.data.store import ExampleStore, StoreBuilder
from tunesmith.infer.batch import generating, rollout
from tunesmith.infer.engine import sampling_from_config
from tunesmith.loss.distill import distillation_function, teacher_topk, topk_distillation_function
from tunesmith.loss.scores import CHUNK_TOKENS, LogitFunction, TokenScores, Want
from tunesmith.loss.token import StepOut
from tunesmith.train.answers import answer_seed, micro_batches, prompts_of
from tunesmith.train.reference import Reference, frozen_model
from tunesmith.train.stage import Setup, Stage, Step, Update
from tunesmith.train.stages.sft import token_weights

TOPK_LOGP, TOPK_IDS = "teacher_logp", "teacher_ids"
OWN_ANSWER = 1 << 20
"""In place of an answer's number where it is drawn who writes it."""


class Distillation(Stage):
    """Stage `gkd`."""

    unit = "tokens"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._teacher: Reference | None = None
        self._setup: Setup | None = None
        self.learns_from_rows = not config.gkd_lambda

    def prepare(self, setup: Setup) -> None:
        """Load the teacher. Raises: ModelError when it has another vocabulary."""
        assert self.config.teacher_model is not None, "a rule asks for it"
        self._setup = setup
        self._teacher = frozen_model(
            setup, "teacher_model", self.config.teacher_model, self.config.teacher_model_adapters
        )

    def with_numbers(self, store: ExampleStore, setup: Setup) -> ExampleStore:
        """With `gkd_topk`, the teacher's likeliest tokens at every supervised token."""
        return self._ask_teacher(store, setup, self.config.gkd_topk) if self.config.gkd_topk else store

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Total token weight of each example."""
        return token_weights(store)

    def updates(self, step: Step) -> Iterator[Update]:
        """One update over given answers and answers that the student writes now."""
        if not self.config.gkd_lambda:
            yield from super().updates(step)
            return
        own = [index for micro in step.plan.micro_batches[step.runtime.rank] for index in micro]
        builder = StoreBuilder()
        for index in own:
            if not self._writes_itself(step, index):
                ids, weights = step.store.example(index)
                builder.add(ids.tolist(), weights.tolist(), step.store.ref(index))
        self._write(step, [index for index in own if self._writes_itself(step, index)], builder)
        store = builder.build()
        weights_E = self.example_weights(store) if len(store) else np.zeros(0)
        trained, read = step.runtime.sum([float(weights_E.sum()), float(store.num_tokens)])
        yield Update(store, micro_batches(store, self.config), trained, tuple(range(len(store))), int(read))

    def _writes_itself(self, step: Step, index: int) -> bool:
        """Whether the student writes the answer to an example at this step: a draw that depends on nothing else."""
        return answer_seed(step.seed, step.number, index, OWN_ANSWER) / (1 << 63) < self.config.gkd_lambda

    def _write(self, step: Step, indices: Sequence[int], builder: StoreBuilder) -> None:
        """Add the student's answers to these examples."""
        assert self._setup is not None
        renderer = self._setup.renderer
        prompts = prompts_of(step.store, indices)
        params = sampling_from_config(self.config, renderer.stop_ids)
        seeds = [answer_seed(step.seed, step.number, index, 0) for index in indices]
        texts = [prompts.example(place)[0].tolist() for place in range(len(prompts))]
        with generating(step.scorer.model, step.scorer.compute_dtype):
            answers = rollout(step.scorer.model, texts, params, seeds=seeds) if texts else []
        for place, (prompt, answer) in enumerate(zip(texts, answers, strict=True)):
            weights = [0.0] * len(prompt) + [1.0] * len(answer.ids)
            builder.add([*prompt, *answer.ids], weights, prompts.ref(place))

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """The divergence of the row's supervised tokens from the teacher."""
        scores: TokenScores = scorer(batch, Want(correct=False, function=self._function(batch)))
        divergence_N = scores.extra["divergence"]
        return StepOut((divergence_N * scores.weight_N).sum(), scores.weight_N.sum())

    def _function(self, batch: Batch) -> LogitFunction:
        """The divergence from the teacher, asked now or before."""
        config, temperature = self.config, self.config.gkd_temperature
        if TOPK_LOGP in batch.token_values:
            ids_NK = batch.token_values[TOPK_IDS].long()
            return topk_distillation_function(
                batch.token_values[TOPK_LOGP], ids_NK, beta=config.gkd_beta, temperature=temperature
            )
        assert self._teacher is not None
        with self._teacher.active() as teacher:
            hidden_ND = teacher.hidden(batch)[batch.where_N]

        def teacher_logits(part: slice) -> Tensor:
            with torch.no_grad():
                return teacher.logits(hidden_ND[part])

        return distillation_function(teacher_logits, beta=config.gkd_beta, temperature=temperature)

    def _ask_teacher(self, store: ExampleStore, setup: Setup, k: int) -> ExampleStore:
        """The teacher's k likeliest tokens wherever the store has a supervised token: T x k numbers and ids.

        Ids are kept as fp32 beside the log-probabilities, which is exact for vocabularies below 16 million.
        """
        assert self._teacher is not None
        logp_TK = np.zeros((store.num_tokens, k), dtype=np.float32)
        ids_TK = np.zeros((store.num_tokens, k), dtype=np.float32)
        plan = plan_evaluation(store.lengths.tolist(), setup.row_tokens, 1)
        with self._teacher.active() as teacher:
            for micro in plan.micro_batches[0]:
                batch = collate(store, micro).to(setup.runtime.device)
                hidden_ND = teacher.hidden(batch)[batch.where_N]
                top = [
                    teacher_topk(teacher.logits(hidden_CD), k, temperature=self.config.gkd_temperature)
                    for hidden_CD in hidden_ND.split(CHUNK_TOKENS)
                ]
                places = supervised_places(store, micro)
                logp_TK[places] = torch.cat([logp for logp, _ in top]).cpu().numpy()
                ids_TK[places] = torch.cat([ids for _, ids in top]).float().cpu().numpy()
        return store.with_values(per_token={TOPK_LOGP: logp_TK, TOPK_IDS: ids_TK})
