"""Conversations: every answer of a dialogue is learned, as the training policy says (stages sft and gkd)."""

from __future__ import annotations

from dataclasses import replace

from tunesmith.data.cutoff import cut_example
from tunesmith.data.formats.base import Format
from tunesmith.data.kinds.base import Example, Kind, RenderedRow, Rendering, beyond_cutoff, first_trained
from tunesmith.data.rows import Row, RowError
from tunesmith.data.schema import DatasetEntry
from tunesmith.types import Conversation


def read(row: Row, entry: DatasetEntry, reader: Format) -> Conversation:
    """The turns of a row, an answer last. Raises: RowError as the format does."""
    return replace(reader.convert(row.fields, entry, "answer"), ref=row.ref)


def render(conversation: Conversation, rendering: Rendering) -> RenderedRow:
    """Usually one example; several when an earlier turn would change its tokens.

    Raises: RowError when no token would be trained on; DataError as the renderer does.
    """
    stop_ids = rendering.renderer.stop_ids
    full = rendering.renderer.examples(conversation, rendering.policy)
    if not any(any(example.weights) for example in full):
        raise RowError("", "no token of the row would be trained on", "remove it, or give an answer a weight")
    cut = [cut_example(example, rendering.cutoff_len, stop_ids) for example in full]
    examples = [
        Example(new.input_ids, new.weights, new.num_turns, new.num_stops, len(old.input_ids), new is not old)
        for new, old in zip(cut, full, strict=True)
        if any(new.weights)
    ]
    if not examples:
        first = min(first_trained(example) for example in full if any(example.weights))
        raise beyond_cutoff(first, max(len(example.input_ids) for example in full))
    num_kept = sum(len(example.input_ids) for example in cut)
    return RenderedRow(examples, sum(len(example.input_ids) for example in full) - num_kept)


KIND = Kind(
    holds="questions with one answer each",
    stages=("sft", "gkd"),
    needs="a dataset of questions and answers, or of conversations",
    read=read,
    render=render,
)
