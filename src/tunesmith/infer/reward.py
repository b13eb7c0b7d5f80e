"""The engine of a reward model: texts in, scores out, by the same passes as answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch

from tunesmith.errors import ModelError
from tunesmith.infer.batching import BatchEngine
from tunesmith.infer.engine import Event, SamplingParams, check_scored
from tunesmith.infer.lanes import Lanes
from tunesmith.infer.request import BatchLimits
from tunesmith.model.value_head import ValueHead


class RewardEngine(BatchEngine):
    """A reward model: it gives scores and no text.

    Args:
        head: the value head, on the model's device.
    """

    def __init__(self, lanes: Lanes, tokenizer: Any, head: ValueHead, limits: BatchLimits | None = None) -> None:
        self._head = head
        super().__init__(lanes, tokenizer, limits)

    def reward(self, ids: Sequence[int], model: str | None = None) -> float:
        """The score of a text: the value at its last token. Raises: ModelError when it does not fit the context."""
        check_scored(len(ids), len(ids), self.context_length)
        name = self.lanes.check(model)
        with torch.inference_mode():
            return float(self._head(self.do(partial(self.hidden, tuple(ids), name))[-1]))

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        deliver: Callable[[Event], None],
        model: str | None = None,
    ) -> NoReturn:
        """Raises: ModelError, always."""
        raise ModelError(
            "this is a reward model: it gives scores, not text",
            fix="ask /v1/score/evaluation of the API, or `tunesmith predict`; to talk, name the model that it judges",
        )
