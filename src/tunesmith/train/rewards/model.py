"""Rewards from a reward model: the value head's number at the last token of prompt and answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.train.rewards.sample import Sample, checked_scores
from tunesmith.types import RowRef

ScoreSequences = Callable[[Sequence[Sequence[int]]], Sequence[float]]
"""Token id sequences in, one score each out: what a loaded reward model is to this package."""


class ModelReward:
    """Scores from a reward model that shares the policy's vocabulary.

    Args:
        score_sequences: given prompt ids followed by completion ids, in the vocabulary of the policy.
        name: the folder of the reward model.
    """

    def __init__(self, score_sequences: ScoreSequences, name: str) -> None:
        self.name = name
        self._score_sequences = score_sequences

    def check_row(self, fields: Mapping[str, Any], ref: RowRef) -> None:
        """Reads nothing of a row."""

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """One score per sample. Raises: TrainingError when the model gives something that is no finite number."""
        if not samples:
            return []
        scores = self._score_sequences([(*sample.prompt_ids, *sample.completion_ids) for sample in samples])
        return checked_scores(scores, samples, f"the reward model {self.name}")
