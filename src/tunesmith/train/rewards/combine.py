"""Several sources as one reward: a weighted sum, with every source's own scores kept for the logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data.store import ExampleStore
from tunesmith.errors import ConfigError
from tunesmith.train.rewards.model import ModelReward
from tunesmith.train.rewards.sample import Reward, Sample
from tunesmith.train.stage import Setup


@dataclass(frozen=True)
class Scored:
    """Scores of n samples.

    Attributes:
        totals: weighted sum over the sources, one per sample.
        by_source: the unweighted scores of each source, by its label.
    """

    totals: list[float]
    by_source: dict[str, list[float]]

    def means(self) -> dict[str, float]:
        """The mean of each source, by its label; empty when there are no samples."""
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
        self.labels = short_labels(names)
        self.weights = tuple(weights) or (1.0,) * len(sources)

    def check_rows(self, store: ExampleStore) -> None:
        """Refuse rows that a source could not score. Raises: DataError naming the first one."""
        assert store.rows is not None, "prompts come with their rows"
        for index, fields in enumerate(store.rows):
            for source in self.sources:
                source.check_row(fields, store.ref(index))

    def open(self, setup: Setup) -> None:
        """Load the reward models among the sources. Raises: ModelError when one does not fit."""
        for source in self.sources:
            if isinstance(source, ModelReward):
                source.open(setup)

    def score(self, samples: Sequence[Sample]) -> Scored:
        """Scores of all samples. Raises: UserError of the source at fault."""
        scores = [source.score(samples) for source in self.sources]
        by_source = dict(zip(self.labels, scores, strict=True))
        columns = zip(*scores, strict=True)
        totals = [sum(w * value for w, value in zip(self.weights, values, strict=True)) for values in columns]
        return Scored(totals, by_source)


def short_labels(names: Sequence[str]) -> tuple[str, ...]:
    """What logs call the sources: a file or folder by its last part, unless two would then be called the same."""
    short = [Path(name).name if "/" in name.partition(":")[0] else name for name in names]
    return tuple(label if short.count(label) == 1 else name for label, name in zip(short, names, strict=True))
