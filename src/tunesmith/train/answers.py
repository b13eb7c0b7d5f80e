"""Answers that the model gives while it is trained, as examples: what ppo, grpo and on-policy distillation learn from.

Each prompt of a step is answered once or several times by the policy as it is now, and the answers become a store of
their own, [prompt | answer | answer ...]: the prompt is computed once for a whole group. An answer is a function of
(weights, prompt, seed, step, example, number), never of the batch or the rank that it was sampled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.config import Config
from tunesmith.data.plan import MicroBatch, plan_evaluation
from tunesmith.data.store import ExampleStore, StoreBuilder
from tunesmith.infer.batch import Rollout, generating, rollout
from tunesmith.infer.engine import SamplingParams
from tunesmith.train.rewards.sample import Sample, samples_of
from tunesmith.train.stage import Step


@dataclass(frozen=True)
class Answers:
    """This rank's answers of one step.

    Attributes:
        store: one example per prompt, its answers as branches; every token of an answer has weight 1.
        rollouts, samples: one per answer, in the order of the store's sequences.
        prompts: for each example of `store`, its index in the store of prompts.
    """

    store: ExampleStore
    rollouts: list[Rollout]
    samples: list[Sample]
    prompts: tuple[int, ...]


def answer_seed(seed: int, step: int, index: int, number: int) -> int:
    """The seed of answer `number` to example `index` at a step; 63 bits."""
    word = np.random.SeedSequence([seed, step, index, number]).generate_state(1, np.uint64)[0]
    return int(word >> np.uint64(1))


def sample_answers(step: Step, tokenizer: object, params: SamplingParams, num_answers: int) -> Answers:
    """Answer this rank's prompts of the step, `num_answers` times each.

    Raises:
        ModelError: a prompt leaves no room for an answer.
    """
    prompts = tuple(index for micro in step.plan.micro_batches[step.runtime.rank] for index in micro)
    owners = [index for index in prompts for _ in range(num_answers)]
    seeds = [answer_seed(step.seed, step.number, index, n) for index in prompts for n in range(num_answers)]
    texts = [step.store.example(index)[0].tolist() for index in owners]
    scorer = step.scorer
    with generating(scorer.model, scorer.compute_dtype):
        rollouts = rollout(scorer.model, texts, params, seeds=seeds) if texts else []
    samples = samples_of(tokenizer, step.store, owners, rollouts)
    return Answers(_store(step.store, prompts, rollouts, num_answers), rollouts, samples, prompts)


def _store(prompts: ExampleStore, indices: Sequence[int], rollouts: Sequence[Rollout], num: int) -> ExampleStore:
    builder = StoreBuilder()
    for place, index in enumerate(indices):
        own = rollouts[place * num : (place + 1) * num]
        prompt = prompts.example(index)[0].tolist()
        ids = [*prompt, *(token for answer in own for token in answer.ids)]
        weights = [0.0] * len(prompt) + [1.0] * (len(ids) - len(prompt))
        builder.add(ids, weights, prompts.ref(index), (len(prompt), *(len(answer.ids) for answer in own)))
    return builder.build()


def prompts_of(store: ExampleStore, indices: Sequence[int]) -> ExampleStore:
    """The prompts of some conversations of a store: each example up to the first token of its last answer.

    That is what inference is fed: the header of the answer belongs to what is not trained.
    """
    builder = StoreBuilder()
    for index in indices:
        ids, weights = store.example(index)
        untrained = np.flatnonzero(weights[: np.flatnonzero(weights)[-1]] == 0)
        start = int(untrained[-1]) + 1 if len(untrained) else 0
        assert start > 0, "an answer follows a prompt"
        builder.add(ids[:start].tolist(), [0.0] * start, store.ref(index))
    return builder.build()


def micro_batches(store: ExampleStore, config: Config) -> tuple[MicroBatch, ...]:
    """The examples of a rank's own store in flat micro-batches; one place holder where there are none."""
    assert config.micro_batch_tokens is not None
    return plan_evaluation(store.lengths.tolist(), config.micro_batch_tokens, 1).micro_batches[0] or ((),)
