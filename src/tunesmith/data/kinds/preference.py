"""Preference pairs: a prompt with a better and a worse answer (stages rm and dpo).

An example is [prompt | chosen | rejected], so that the prompt is stored and computed once. Prompt and answer are
tokenized together, exactly as `stage: sft` would; the untrained tokens that both begin with are the shared prefix. That
is the whole prompt unless the template writes it differently for the two answers. Prompt and answer together are cut
at `cutoff_len`, each answer for itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.formats.base import Format
from tunesmith.data.kinds.base import Answered, Example, Kind, RenderedRow, Rendering, render_answer
from tunesmith.data.rows import Row, RowError
from tunesmith.data.schema import DatasetEntry
from tunesmith.types import Preference


def read(row: Row, entry: DatasetEntry, reader: Format) -> Preference:
    """The prompt and both answers. Raises: RowError when one is missing, or the answers are the same."""
    opening = reader.convert(row.fields, entry, "question")
    chosen_column, rejected_column = str(entry.columns.chosen), str(entry.columns.rejected)
    chosen = reader.answer(row.fields, chosen_column, entry)
    rejected = reader.answer(row.fields, rejected_column, entry)
    if chosen == rejected:
        raise _equal(rejected_column, f"is the same answer as `{chosen_column}`")
    return Preference(opening.messages, chosen, rejected, opening.tools, row.ref)


def render(pair: Preference, rendering: Rendering) -> RenderedRow:
    """One example of three pieces: what both answers share, then each of them.

    Raises: RowError when an answer has no token within `cutoff_len`, or the two have the same ones.
    """
    better = render_answer(pair.prompt, pair.chosen, pair.tools, rendering, "chosen")
    worse = render_answer(pair.prompt, pair.rejected, pair.tools, rendering, "rejected")
    if better.full_ids == worse.full_ids:
        raise _equal("rejected", "has the same tokens as `chosen` in this template")
    longest = max(better.full_length, worse.full_length)
    if better.example.input_ids == worse.example.input_ids:
        raise RowError(
            "rejected",
            "is equal to `chosen` within cutoff_len",
            "the answers part behind it",
            needed_cutoff_len=longest,
        )
    return RenderedRow([_in_pieces(better, worse, longest)], better.num_cut + worse.num_cut)


def _in_pieces(better: Answered, worse: Answered, full_length: int) -> Example:
    one, other = better.example, worse.example
    limit = min(better.num_context, worse.num_context)
    num_shared = _num_equal(one.input_ids[:limit], other.input_ids[:limit])
    return Example(
        ids=one.input_ids + other.input_ids[num_shared:],
        weights=one.weights + other.weights[num_shared:],
        num_turns=one.num_turns + other.num_turns,
        num_stops=one.num_stops + other.num_stops,
        full_length=full_length,
        is_cut=better.num_cut + worse.num_cut > 0,
        piece_lengths=(num_shared, len(one.input_ids) - num_shared, len(other.input_ids) - num_shared),
    )


def _num_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    differing = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _equal(field: str, why: str) -> RowError:
    return RowError(field, why, "a pair of equal answers teaches nothing; remove the row")


KIND = Kind(
    holds="pairs of a better and a worse answer",
    stages=("rm", "dpo"),
    needs='a dataset of pairs ("ranking": true, with the columns chosen and rejected)',
    read=read,
    render=render,
    part_names=lambda example: ("prompt", "chosen", "rejected"),
)
