"""Feedback: a prompt with one answer and a thumb up or down (stage kto).

An example is [prompt | answer | another row's answer]. The last piece serves the estimate of how far the policy has
moved from its reference, on answers to other prompts (KTO, Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306,
section 4.1). It is the answer of the next row of the split that has another prompt, so that it depends on nothing but
the rows. The public tool takes the neighbour within a preprocessing batch, whatever its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tunesmith.data.formats.base import Format
from tunesmith.data.kinds.base import Example, Kind, RenderedRow, Rendering, render_answer
from tunesmith.data.ledger import Use
from tunesmith.data.rows import Row, RowError, type_name
from tunesmith.data.schema import DatasetEntry
from tunesmith.data.store import ExampleStore, StoreBuilder
from tunesmith.errors import DataError
from tunesmith.types import Feedback

DESIRABLE = "desirable"
"""The number of each example that says which thumb it got: 1.0 up, 0.0 down."""
_CSV_TEXTS = {"true": True, "false": False}


def read(row: Row, entry: DatasetEntry, reader: Format) -> Feedback:
    """The prompt, its answer and the verdict. Raises: RowError when one is missing or the verdict is not a bool."""
    whole = reader.convert(row.fields, entry, "answer")
    desirable = _verdict(row, str(entry.columns.kto_tag))
    return Feedback(whole.messages[:-1], whole.messages[-1], desirable, whole.tools, row.ref)


def _verdict(row: Row, column: str) -> bool:
    fields: Mapping[str, Any] = row.fields
    if column not in fields:
        raise RowError(column, "is missing", "say true (a good answer) or false (a bad one)")
    value = fields[column]
    if isinstance(value, str) and row.ref.file.lower().endswith(".csv"):
        value = _CSV_TEXTS.get(value.strip().lower(), value)  # every cell of a CSV file is text
    if not isinstance(value, bool):
        shown = repr(value) if isinstance(value, int | float | str) else type_name(value)
        raise RowError(column, f"is {shown}, expected true or false", "write true or false, without quotes")
    return value


def render(row: Feedback, rendering: Rendering) -> RenderedRow:
    """One example of two pieces, [prompt | answer]; `finish` adds the third.

    Raises: RowError when the answer has no token within `cutoff_len`.
    """
    answered = render_answer(row.prompt, row.answer, row.tools, rendering, "")
    example, num_context = answered.example, answered.num_context
    laid = Example(
        ids=example.input_ids,
        weights=example.weights,
        num_turns=example.num_turns,
        num_stops=example.num_stops,
        full_length=answered.full_length,
        is_cut=answered.num_cut > 0,
        piece_lengths=(num_context, len(example.input_ids) - num_context),
        numbers={DESIRABLE: float(row.desirable)},
    )
    return RenderedRow([laid], answered.num_cut)


def finish(store: ExampleStore, use: Use, cutoff_len: int) -> ExampleStore:
    """The examples with another row's answer as third piece, which is cut at `cutoff_len` like any other answer.

    Raises: DataError when there is just one row, or all rows to train on have the same verdict.
    """
    if not len(store):
        return store
    if use == "train":
        _refuse_one_sided(store)
    partners = mismatched(store, use)
    builder = StoreBuilder()
    for index, partner in enumerate(partners):
        ids, weights = store.example(index)
        num_context = store.piece_lengths(index)[0]
        other_context = store.piece_lengths(partner)[0]
        other_ids, other_weights = (values[other_context:] for values in store.example(partner))
        room = cutoff_len - num_context
        builder.add(
            np.concatenate([ids, other_ids[:room]]).tolist(),
            np.concatenate([weights, other_weights[:room]]).tolist(),
            store.ref(index),
            (*store.piece_lengths(index), min(room, len(other_ids))),
        )
    return builder.build().with_values(per_example=store.per_example)


def mismatched(store: ExampleStore, use: Use) -> list[int]:
    """For each example the next one (after the last comes the first) whose prompt is another.

    Where all prompts are the same one, simply the next. Raises: DataError when there is just one example.
    """
    num_rows = len(store)
    if num_rows == 1:
        raise DataError(
            f"there is just one row to {'train' if use == 'train' else 'evaluate'} on",
            where=str(store.ref(0)),
            why="`stage: kto` measures how far the model has moved on answers of other rows",
            fix="add rows" if use == "train" else "raise val_size, or name an eval_dataset of two rows or more",
        )
    prompts = [store.example(index)[0][: store.piece_lengths(index)[0]].tobytes() for index in range(num_rows)]
    following = [(index + 1) % num_rows for index in range(num_rows)]
    if len(set(prompts)) == 1:
        return following
    for index in reversed(range(2 * num_rows)):  # twice round, so that the last rows know what follows the first
        here, after = index % num_rows, (index + 1) % num_rows
        following[here] = after if prompts[after] != prompts[here] else following[after]
    return following


def _refuse_one_sided(store: ExampleStore) -> None:
    verdicts = store.per_example[DESIRABLE]
    num_good = int(verdicts.sum())
    if 0 < num_good < len(verdicts):
        return
    shown, lacking = ("true", "false") if num_good else ("false", "true")
    aim = "make every answer likelier" if num_good else "make every answer less likely"
    raise DataError(
        f"all {len(verdicts)} rows to train on are labelled {shown}",
        where=str(store.ref(0)),
        why=f"KTO learns from the contrast of both; with one side only it would {aim} and the model would drift",
        fix=f"add rows labelled {lacking}"
        + ("; to learn from good answers alone, use `stage: sft` without the label" if num_good else ""),
    )


KIND = Kind(
    holds="answers with a thumb up or down",
    stages=("kto",),
    needs='a dataset of labelled answers (a column of true and false, named as "kto_tag")',
    read=read,
    render=render,
    part_names=lambda example: ("prompt", "good answer" if example.numbers[DESIRABLE] else "bad answer"),
    finish=finish,
)
