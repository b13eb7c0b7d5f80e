"""A stage is what is special about a kind of training: its examples' weight and one pure loss. The loop is shared.

A stage that learns from given rows only needs `example_weights` and `step`. The other members have defaults: one
that holds the policy to a reference prepares it in `prepare`, one that makes its own examples yields them from
`updates`. Whatever a stage remembers from step to step lives in `state`, which checkpoints keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tunesmith.config import Config
from tunesmith.data.collate import Batch, collate
from tunesmith.data.plan import MicroBatch, StepPlan, plan_evaluation
from tunesmith.data.store import ExampleStore
from tunesmith.errors import ConfigError
from tunesmith.loss.scores import TokenScores, Want
from tunesmith.loss.token import StepOut
from tunesmith.model.evaluating import evaluating
from tunesmith.registry import Registry
from tunesmith.train.runtime import Runtime

if TYPE_CHECKING:
    from tunesmith.model.scorer import Scorer
    from tunesmith.render import Renderer


@dataclass(frozen=True)
class Setup:
    """What a stage may use once the model stands as the run starts from it, before a checkpoint is put back.

    Attributes:
        scorer: the model that is trained, with the weights that the run started from.
        fingerprint: named hashes of what these weights and the rows depend on.
        row_tokens: tokens of the largest micro-batch of training.
        say: tells the user something, once.
        folder: the run folder.
        config_dir: the folder of the configuration file, for relative paths in it.
    """

    config: Config
    runtime: Runtime
    scorer: Scorer
    renderer: Renderer
    fingerprint: Mapping[str, str]
    row_tokens: int
    say: Callable[[str], None]
    folder: Path
    config_dir: Path


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer update: this rank's micro-batches of a store, and what they weigh over all ranks.

    `members` are the examples of all ranks that the store knows, for messages; `num_tokens` counts all ranks.
    `metrics` are (sum, weight) pairs of what the stage measured for this update, over all ranks already.
    """

    store: ExampleStore
    micro_batches: tuple[MicroBatch, ...]
    weight: float
    members: tuple[int, ...]
    num_tokens: int
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One step of the plan, as the loop offers it to the stage.

    Attributes:
        number: steps taken before this one; with `seed` it decides all randomness.
        scorer: the model, past the data parallel wrapper.
    """

    number: int
    plan: StepPlan
    store: ExampleStore
    weights: npt.NDArray[np.float64]
    runtime: Runtime
    scorer: Scorer
    seed: int


@dataclass
class Sums:
    """Sums and weights of the loss and the metrics, by name; means are taken once, at the end."""

    totals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, out: StepOut) -> None:
        """Add one micro-batch."""
        for name, (total, weight) in {"loss": (out.loss_sum, out.weight), **out.metrics}.items():
            before = self.totals.get(name, (0.0, 0.0))
            self.totals[name] = (before[0] + float(total.detach()), before[1] + float(weight))

    def over_ranks(self, runtime: Runtime) -> Sums:
        """The same over all ranks; every rank has the same names."""
        names = sorted(self.totals)
        values = runtime.sum([number for name in names for number in self.totals[name]])
        return Sums({name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(names)})

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        names = {**self.totals, **other.totals}
        pairs = {name: (self.totals.get(name, (0.0, 0.0)), other.totals.get(name, (0.0, 0.0))) for name in names}
        return Sums({name: (a[0] + b[0], a[1] + b[1]) for name, (a, b) in pairs.items()})

    def means(self) -> dict[str, float]:
        """What has a weight, divided by it."""
        return {name: total / weight for name, (total, weight) in self.totals.items() if weight}


class Stage:
    """To add one: a class with `example_weights` and `step` in `train/stages/`, and a line in `STAGES`."""

    unit = "tokens"
    """What the loss is divided by, in the plural: "tokens", "pairs"."""
    eval_metrics: tuple[str, ...] = ("loss",)
    """What an evaluation reports, and `metric_for_best_model` may name."""
    plots: tuple[str, ...] = ("loss",)
    """Training metrics that get a curve."""
    needs_start = False
    """Whether `prepare` looks at the weights that the run started from, also when it is resumed."""
    learns_from_rows = True
    """Whether it takes its steps on the examples that it is given, not on answers of its own."""
    needs_value_head = False
    """Whether a value head is trained beside the model."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state: dict[str, Any] = {}

    def check_data(self, stores: Sequence[ExampleStore], config_dir: Path) -> None:
        """Refuse settings and rows that the stage cannot use, before the weights are read. Raises: UserError."""

    def prepare(self, setup: Setup) -> None:
        """Get ready, once, before the first step. Raises: UserError for what cannot work."""

    def with_numbers(self, store: ExampleStore, setup: Setup) -> ExampleStore:
        """The store with the numbers that the loss needs beside the tokens. Called after `prepare`, for every store."""
        return store

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Weight of each example in the loss, so that a step's total is known before it runs. float64[N]."""
        raise NotImplementedError

    def updates(self, step: Step) -> Iterator[Update]:
        """The optimizer updates of a step; usually one, over the examples of the plan."""
        yield planned_update(step.plan, step.store, step.weights, step.runtime)

    def before_update(self, scorer: nn.Module, update: Update, runtime: Runtime) -> None:
        """Look at all micro-batches of an update before the first is learnt from."""

    def before_evaluation(self, scorer: nn.Module, update: Update, runtime: Runtime) -> None:
        """The same for an evaluation set. A stage that learns in `before_update` must not learn from it."""
        self.before_update(scorer, update, runtime)

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """Loss sum, weight and metrics of one micro-batch."""
        raise NotImplementedError

    def evaluate(self, scorer: nn.Module, store: ExampleStore, runtime: Runtime, micro_batch_tokens: int) -> Sums:
        """This rank's part of an evaluation set, without gradients."""
        plan = plan_evaluation(store.lengths.tolist(), micro_batch_tokens, runtime.world_size)
        update = planned_update(plan, store, self.example_weights(store), runtime)
        sums = Sums()
        with torch.no_grad():
            self.before_evaluation(scorer, update, runtime)
            for micro in update.micro_batches:
                sums.add(self.step(scorer, collate(store, micro).to(runtime.device)))
        return sums

    def predict(
        self, scorer: nn.Module, store: ExampleStore, runtime: Runtime, micro_batch_tokens: int
    ) -> list[dict[str, Any]]:
        """What `do_predict` writes down, a line per example, the same on every rank. Only where the rules allow it."""
        raise NotImplementedError

    def judge(self, lines: list[dict[str, Any]]) -> dict[str, float]:
        """Metrics over the lines of `predict`."""
        raise NotImplementedError

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Further metrics that follow from the means of an evaluation."""
        return means


def planned_update(plan: StepPlan, store: ExampleStore, weights: npt.NDArray[np.float64], runtime: Runtime) -> Update:
    """The update over the examples that the plan gives to the ranks."""
    members = tuple(index for rank in plan.micro_batches for micro in rank for index in micro)
    chosen = list(members)
    num_tokens = int(store.lengths[chosen].sum())
    return Update(store, plan.micro_batches[runtime.rank], float(weights[chosen].sum()), members, num_tokens)


def observed(scorer: nn.Module, update: Update, runtime: Runtime) -> Iterator[tuple[Batch, TokenScores]]:
    """This rank's micro-batches with their scores, without gradients and in evaluation mode.

    Past the data parallel wrapper: nothing is exchanged, so ranks may have different numbers of micro-batches.
    """
    module: nn.Module = getattr(scorer, "module", scorer)
    for micro in update.micro_batches:
        batch = collate(update.store, micro).to(runtime.device)
        with evaluating(module):
            scores = module(batch, Want(correct=False))
        yield batch, scores


STAGES = Registry(
    "stage",
    {
        "pt": "tunesmith.train.stages.pt:Pretraining",
        "sft": "tunesmith.train.stages.sft:SupervisedFineTuning",
        "rm": "tunesmith.train.stages.rm:RewardModeling",
        "dpo": "tunesmith.train.stages.dpo:DirectPreference",
        "ppo": "tunesmith.train.stages.ppo:ProximalPolicy",
        "gkd": "tunesmith.train.stages.gkd:Distillation",
        "kto": "tunesmith.train.stages.kto:KahnemanTversky",
        "grpo": "tunesmith.train.stages.grpo:GroupRelativePolicy",
    },
    ConfigError,
)
