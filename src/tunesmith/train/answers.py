"""Answers that the model gives while it is trained, as examples: what ppo, grpo and on-policy distillation learn from.

Each prompt of a step is answered once or several times by the policy as it is now, and the answers become a store of
their own, [prompt | answer | answer ...]: the prompt is computed once for a whole group. An answer is a function of
(weights, prompt, seed, step, example, number), never of the batch or the rank that it was sampled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tunesmith.config import Config
from tunesmith.data.collate import collate, supervised_places
from tunesmith.data.plan import MicroBatch, plan_evaluation
from tunesmith.data.store import ExampleStore, StoreBuilder
from tunesmith.infer.batch import Rollout, generating, rollout
from tunesmith.infer.engine import SamplingParams
from tunesmith.loss.scores import Want
from tunesmith.model.evaluating import evaluating
from tunesmith.model.scorer import Scorer
from tunesmith.train.rewards.combine import Scored
from tunesmith.train.rewards.sample import Sample, samples_of
from tunesmith.train.stage import Step

EVALUATION_STEP = 1 << 40
"""In place of a step's number where held-out prompts are answered: every evaluation draws the same random numbers."""


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


def token_logp(
    scorer: Scorer, store: ExampleStore, batches: Sequence[MicroBatch], temperature: float
) -> npt.NDArray[np.float32]:
    """log-probability of every trained token of a rank's own store, float32[T], 0 elsewhere; without dropout.

    Args:
        temperature: of sampling: the logits are divided by it, as they were then.
    """
    logp_T = np.zeros(store.num_tokens, np.float32)
    device = next(scorer.parameters()).device
    with evaluating(scorer):
        for micro in batches:
            scores = scorer(collate(store, micro).to(device), Want(correct=False, temperature=temperature))
            logp_T[supervised_places(store, micro)] = scores.logp_N.cpu().numpy()
    return logp_T


def answer_totals(answers: Answers, scored: Scored, elapsed_s: float = 0.0) -> dict[str, tuple[float, float]]:
    """(sum, weight) of what is reported of a rank's answers; every rank has the same names.

    Args:
        elapsed_s: the time that sampling and scoring took; `rollout_tokens_per_s` is a rank's.
    """
    num = float(len(answers.rollouts))
    num_tokens = float(sum(len(answer.ids) for answer in answers.rollouts))
    return {
        "reward": (sum(scored.totals), num),
        **{f"rewards/{name}": (sum(scores), num) for name, scores in scored.by_source.items()},
        "completion_length": (num_tokens, num),
        "finished": (float(sum(answer.finished for answer in answers.rollouts)), num),
        "rollout_tokens_per_s": (num_tokens, elapsed_s),
    }


def without_unfinished(store: ExampleStore, rollouts: Sequence[Rollout]) -> ExampleStore:
    """The store with no weight on answers that were cut at the length limit; they stay in the count of answers."""
    finished = iter(rollouts)
    kept: list[bool] = []
    for index in range(len(store)):
        kept.append(False)  # the prompt, which is never trained on
        kept += [next(finished).finished for _ in range(store.num_sequences(index))]
    return replace(store, weights=np.where(np.repeat(kept, store.piece_sizes), store.weights, np.float32(0)))
