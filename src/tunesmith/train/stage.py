"""A stage is what is special about a kind of training: its examples' weight and one pure loss. The loop is shared."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from tunesmith.data.collate import Batch
from tunesmith.data.store import ExampleStore
from tunesmith.errors import ConfigError
from tunesmith.loss.token import StepOut
from tunesmith.registry import Registry


class Stage(Protocol):
    """To add one: a class with these members in `train/stages/`, and a line in `STAGES`."""

    unit: str
    """What the loss is divided by, in the plural: "tokens", "pairs"."""

    def example_weights(self, store: ExampleStore) -> npt.NDArray[np.float64]:
        """Weight of each example in the loss, so that a step's total is known before it runs. float64[N]."""

    def step(self, scorer: nn.Module, batch: Batch) -> StepOut:
        """Loss sum, weight and metrics of one micro-batch."""


STAGES = Registry("stage", {"sft": "tunesmith.train.stages.sft:SupervisedFineTuning"}, ConfigError)
