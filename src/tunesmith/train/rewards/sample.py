"""What a reward is given for, and the shape of everything that gives one.

A sample is one sampled answer to one prompt, with the row that the prompt came from. Rewards see samples and nothing
else, so the stages do not know where a score comes from, and a source does not know which stage asks.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunesmith.data.store import ExampleStore
from tunesmith.errors import DataError, TrainingError, did_you_mean
from tunesmith.infer.batch import Rollout
from tunesmith.types import RowRef

SHOWN_CHARS = 200
"""How much of a completion a message shows."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt and one answer to it.

    Attributes:
        prompt_text: what the model read, with its special tokens.
        completion_text: what it answered, without special tokens and without the stop token.
        prompt_ids, completion_ids: the same as tokens; the stop token is the last one of a finished answer.
        full_text: prompt and answer with every special token, as a reward model reads them.
        fields: the columns of the prompt's row; besides, `messages` (the turns, as role and content) and, where the
            row has an answer of its own, `response`.
        finished: the answer ended by itself; otherwise it was cut at the length limit.
        ref: where the row is.
    """

    prompt_text: str
    completion_text: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    full_text: str
    fields: Mapping[str, Any]
    finished: bool
    ref: RowRef


def samples_of(
    tokenizer: Any, store: ExampleStore, indices: Sequence[int], rollouts: Sequence[Rollout]
) -> list[Sample]:
    """The answers to examples of a store of prompts; an index may come several times."""
    assert store.rows is not None, "prompts come with their rows"
    made = []
    for index, answer in zip(indices, rollouts, strict=True):
        prompt_ids = tuple(store.example(index)[0].tolist())
        shown = answer.ids[:-1] if answer.finished else answer.ids
        made.append(
            Sample(
                prompt_text=_decode(tokenizer, prompt_ids, False),
                completion_text=_decode(tokenizer, shown, True),
                prompt_ids=prompt_ids,
                completion_ids=answer.ids,
                full_text=_decode(tokenizer, (*prompt_ids, *answer.ids), False),
                fields=store.rows[index],
                finished=answer.finished,
                ref=store.ref(index),
            )
        )
    return made


def _decode(tokenizer: Any, ids: Sequence[int], skip_special_tokens: bool) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)


class Reward(Protocol):
    """A source of scores."""

    @property
    def name(self) -> str:
        """How logs and messages call it: as the user wrote it, shortened."""

    def check_row(self, fields: Mapping[str, Any], ref: RowRef) -> None:
        """Raises: DataError when a row lacks what this source reads. Called for all rows before the model is read."""

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """One finite number per sample, in order. Raises: TrainingError, DataError naming the row at fault."""


def require_column(source: str, column: str, fields: Mapping[str, Any], ref: RowRef) -> None:
    """Raises: DataError when the row does not have the column that `source` reads."""
    if column not in fields:
        raise DataError(
            f"the reward {source} reads the column '{column}', which the row does not have",
            where=str(ref),
            fix=f"{did_you_mean(column, fields)} It has: {', '.join(sorted(fields)) or 'none'}.".strip(),
        )


def number_of(value: Any) -> float | None:
    """`value` as a finite number (numbers of numpy and one-element tensors too); None when it is none."""
    if not isinstance(value, numbers.Real) and hasattr(value, "item") and getattr(value, "size", 0) != 0:
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            return None
    if not isinstance(value, numbers.Real):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def shorten(text: str, num_chars: int = SHOWN_CHARS) -> str:
    """`text` on one line, its middle left out where it is long."""
    line = " ".join(text.split())
    if len(line) <= num_chars:
        return line
    half = (num_chars - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def checked_scores(values: Any, samples: Sequence[Sample], source: str) -> list[float]:
    """`values` as one finite number per sample.

    Raises:
        TrainingError: not a list, of another length, or with something in it that is no finite number.
    """
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, list | tuple):
        raise TrainingError(
            f"{source} returned {type(values).__name__} in place of a list of numbers",
            why=_forgot_to_return(values),
            fix=f"return one number for each of the {len(samples)} completions it is given",
        )
    if len(listed) != len(samples):
        raise TrainingError(
            f"{source} returned {len(listed)} numbers for {len(samples)} completions",
            fix="return one number per completion, in the order in which they came",
        )
    scores = [number_of(value) for value in listed]
    for value, score, sample in zip(listed, scores, samples, strict=True):
        if score is None:
            raise TrainingError(
                f"{source} returned {shorten(repr(value), 60)}, which is no finite number",
                where=describe(sample),
                fix="return a number for every completion; 0.0 where the reward says nothing",
            )
    return [score for score in scores if score is not None]


def describe(sample: Sample) -> str:
    """The row and the shortened completion, for the `where` of a message."""
    return f'{sample.ref}; completion "{shorten(sample.completion_text)}"'


def _forgot_to_return(values: Any) -> str:
    return "a function without `return` returns None" if values is None else ""
