"""Rewards that need no code: a pattern, the right answer, an end of its own, a length.

Each looks at one sample at a time and reads at most one column of its row. What a row holds there is read through
`prepare` twice: for every row before the model is loaded, so that a faulty row is named at once, and when scoring.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ConfigError, DataError
from tunesmith.train.rewards.answers import is_right
from tunesmith.train.rewards.sample import Sample, require_column, shorten
from tunesmith.types import RowRef


def _nothing(value: Any, where: str) -> Any:
    return None


@dataclass(frozen=True)
class CheckReward:
    """A question about one sample, answered by 1.0 or 0.0 (or a number, where `judge` says so).

    Args:
        name: as the user wrote it.
        judge: the question: the sample, and what `prepare` made of the column.
        columns: the column that it reads is the first of these that a row has; empty: it reads none.
        prepare: what is judged by, from the column's value and a place for messages. Raises: DataError.
    """

    name: str
    judge: Callable[[Sample, Any], float]
    columns: tuple[str, ...] = ()
    prepare: Callable[[Any, str], Any] = _nothing

    def check_row(self, fields: Mapping[str, Any], ref: RowRef) -> None:
        """Raises: DataError when the row lacks the column, or holds something unusable there."""
        self._known(fields, ref)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """One number per sample. Raises: DataError naming a row with something unusable."""
        return [float(self.judge(sample, self._known(sample.fields, sample.ref))) for sample in samples]

    def _known(self, fields: Mapping[str, Any], ref: RowRef) -> Any:
        if not self.columns:
            return None
        column = next((name for name in self.columns if name in fields), self.columns[0])
        require_column(self.name, column, fields, ref)
        return self.prepare(fields[column], f"{ref}, column '{column}'")


def pattern(name: str, expression: str, *, whole: bool) -> CheckReward:
    """Whether a regular expression matches somewhere in the answer, or (`whole`) the whole answer, stripped.

    `.` matches line ends too. Raises: ConfigError when it is no regular expression.
    """
    try:
        compiled = re.compile(expression, re.DOTALL)
    except re.error as err:
        raise ConfigError(
            f"the reward {name} holds no regular expression: {err}",
            fix=r"in YAML, write it as a list item in single quotes: - 'regex:<b>\d{1,3}</b>'",
        ) from err
    match = compiled.fullmatch if whole else compiled.search
    return CheckReward(name, lambda sample, _: match(sample.completion_text.strip()) is not None)


def exact_answer(name: str, columns: tuple[str, ...]) -> CheckReward:
    """Whether the final answer is the one in the column, or one of a list there; `answers.py` says what equal means."""

    def prepare(value: Any, where: str) -> list[str]:
        accepted = value if isinstance(value, list) and value else [value]
        for item in accepted:
            if isinstance(item, bool) or not isinstance(item, str | int | float) or not str(item).strip():
                raise DataError(
                    f"{shorten(repr(item), 60)} is no answer to compare with",
                    where=where,
                    fix="give each row a text or a number there, or a list of accepted ones",
                )
        return [str(item) for item in accepted]

    def judge(sample: Sample, accepted: list[str]) -> bool:
        return any(is_right(sample.completion_text, answer) for answer in accepted)

    return CheckReward(name, judge, columns, prepare)


def finished(name: str) -> CheckReward:
    """Whether the answer ended by itself, rather than at the length limit."""
    return CheckReward(name, lambda sample, _: sample.finished)


def overlong(name: str, limit: int, margin: int) -> CheckReward:
    """0 up to `limit - margin` tokens, falling to -1 at `limit`, -1 beyond (DAPO, arXiv 2503.14476, eq. 13).

    Raises: ConfigError unless 0 < margin <= limit.
    """
    if not 0 < margin <= limit:
        raise ConfigError(
            f"the reward {name} needs a limit and a smaller margin, in tokens", fix="such as overlong:256:64"
        )
    return CheckReward(name, lambda s, _: -min(1.0, max(0.0, (len(s.completion_ids) - limit + margin) / margin)))
