"""Several sources as one reward: a weighted sum, with every source's own scores kept for the logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.train.rewards.sample import Reward, Sample
from tunesmith.types import RowRef


@dataclass(frozen=True)
class Scored:
    """Scores of n samples.

    Attributes:
        totals: weighted sum over the sources, one per sample.
        by_source: the unweighted scores of each source, by its name.
    """

    totals: list[float]
    by_source: dict[str, list[float]]

    def means(self) -> dict[str, float]:
        """The mean of each source, by its name; empty when there are no samples."""
        return {name: sum(values) / len(values) for name, values in self.by_source.items() if values}


class Rewards:
    """Sources with their weights.

    Args:
        sources: at least one, with different names.
        weights: one per source; empty: 1 each.

    Raises:
        ConfigError: two sources of one name, or another number of weights.
    """

    def __init__(self, sources: Sequence[Reward], weights: Sequence[float] = ()) -> None:
        names = [source.name for source in sources]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"the reward {name} is named twice", fix="name it once; reward_weights can double it")
        if weights and len(weights) != len(sources):
            raise ConfigError(
                f"reward_weights has {len(weights)} numbers for {len(sources)} rewards: {', '.join(names)}",
                fix="give one weight per reward, first those of reward_model, then those of reward_functions",
            )
        self.sources = tuple(sources)
        self.weights = tuple(weights) or (1.0,) * len(sources)

    def check_rows(self, rows: Iterable[tuple[RowRef, Mapping[str, Any]]]) -> None:
        """Refuse rows that a source could not score. Raises: DataError naming the first one."""
        for ref, fields in rows:
            for source in self.sources:
                source.check_row(fields, ref)

    def score(self, samples: Sequence[Sample]) -> Scored:
        """Scores of all samples. Raises: UserError of the source at fault."""
        by_source = {source.name: source.score(samples) for source in self.sources}
        columns = zip(*by_source.values(), strict=True)
        totals = [sum(w * value for w, value in zip(self.weights, values, strict=True)) for values in columns]
        return Scored(totals, by_source)
