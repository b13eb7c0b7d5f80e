"""Takes one dataset in: read, choose rows, convert, fill placeholders, render, cut, and account for each row.

Rows stream through one at a time; only their tokens stay. What becomes of bad rows is decided at the end
of the dataset, when their share of each file is known, so that one message can list them together.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Protocol

from tunesmith.data.catalog import Dataset
from tunesmith.data.cutoff import cut_example
from tunesmith.data.formats import FORMATS
from tunesmith.data.formats.base import Format, column_counts, counted
from tunesmith.data.ledger import Entry, Ledger, Outcome, Use
from tunesmith.data.placeholders import Placeholders
from tunesmith.data.rows import BadRow, Row, RowError, RowStream
from tunesmith.data.rowset import RowSet, content_digest
from tunesmith.data.schema import DatasetEntry
from tunesmith.data.sources import read_rows
from tunesmith.errors import DataError
from tunesmith.types import Conversation, RenderedExample, RowRef

NUM_PEEKED_ROWS = 200
MAX_BAD_SHARE = 0.01
_NUM_LISTED = 10


class ExampleRenderer(Protocol):
    """The part of `tunesmith.render.Renderer` that preparing data needs."""

    stop_ids: tuple[int, ...]

    def examples(self, conversation: Conversation, policy: Any) -> list[RenderedExample]:
        """The conversation as tokens with weights."""


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """The examples of one row: those with a trained token, their lengths before the cut, and what the cut took."""

    examples: list[RenderedExample]
    full_lengths: list[int]
    num_cut_tokens: int


@dataclass
class Intake:
    """The settings and accounts that all datasets of a run share.

    Attributes:
        on_bad_row: "error", "drop", or None: drop up to 1 % of a file's rows.
        drop_duplicates: whether a row that repeats an earlier one is left out.
        max_samples: at most this many rows of each dataset, the first ones.
    """

    renderer: ExampleRenderer
    policy: Any
    ledger: Ledger
    placeholders: Placeholders
    stage: str
    seed: int
    cutoff_len: int
    max_samples: int | None = None
    on_bad_row: str | None = None
    drop_duplicates: bool = False

    def take(self, dataset: Dataset, rows_out: RowSet, use: Use) -> None:
        """Take all rows of a dataset. Raises: DataError when it is empty, does not fit, or has too many bad rows."""
        first, rows = peek(read_dataset(dataset), NUM_PEEKED_ROWS)
        layout = lay_out(dataset, first, self.ledger.notes)
        check_stage(layout, self.stage)
        bad_rows: list[BadRow] = []
        num_rows: Counter[str] = Counter()
        for row in self._choose(rows, layout):
            self.ledger.count_input(row.ref, use)
            num_rows[row.ref.file] += 1
            verdict = row if isinstance(row, BadRow) else self._take_row(row, layout, rows_out, use)
            if verdict is not None:
                bad_rows.append(verdict)
                self.ledger.record(Entry(verdict.ref, use, "dropped", 0, verdict.why, verdict.field, verdict.fix))
        if not num_rows:
            files = ", ".join(file.name for file in dataset.files)
            raise DataError(f"dataset '{dataset.name}' is empty", where=files, fix="put rows there or do not name it")
        self._judge_bad_rows(bad_rows, num_rows)

    def _choose(self, rows: RowStream, entry: DatasetEntry) -> RowStream:
        if entry.num_samples is not None:
            rows = self._sample(list(rows), entry)
        if self.max_samples is None:
            return rows
        return self._first(rows, self.max_samples, entry.name)

    def _first(self, rows: RowStream, count: int, name: str) -> RowStream:
        yield from islice(rows, count)
        if next(rows, None) is not None:
            self.ledger.notes.append(f"{name}: only the first {count} rows are taken (max_samples: {count})")

    def _sample(self, rows: Sequence[Row | BadRow], entry: DatasetEntry) -> RowStream:
        count = entry.num_samples or 0
        order = sorted(range(len(rows)), key=lambda index: _draw(self.seed, entry.name, index))
        times = {index: count // len(rows) + (place < count % len(rows)) for place, index in enumerate(order)}
        repeated = f", {count - len(rows)} of them again" if count > len(rows) else ""
        self.ledger.notes.append(f"{entry.name}: num_samples takes {count} of {len(rows)} rows{repeated}")
        return chain.from_iterable([row] * times[index] for index, row in enumerate(rows))

    def _take_row(self, row: Row, layout: DatasetEntry, rows_out: RowSet, use: Use) -> BadRow | None:
        """Convert, render and enter one row; returns why it is bad when it is."""
        conversation = self.convert_row(row, layout)
        if isinstance(conversation, BadRow):
            return conversation
        digest = content_digest(conversation)
        first = rows_out.first_of(digest)
        if first is not None and self.drop_duplicates:
            self.ledger.record(Entry(row.ref, use, "dropped", reason="duplicate", duplicate_of=first))
            return None
        rendered = self.render_row(conversation, row.ref)
        if isinstance(rendered, BadRow):
            return rendered
        rows_out.add(digest, row.ref, rendered.examples, rendered.full_lengths)
        outcome: Outcome = "cut" if rendered.num_cut_tokens else "whole"
        self.ledger.record(Entry(row.ref, use, outcome, rendered.num_cut_tokens, duplicate_of=first))
        return None

    def convert_row(self, row: Row, layout: DatasetEntry) -> Conversation | BadRow:
        """The conversation that a row holds, its placeholders filled, or why it holds none."""
        try:
            conversation = format_of(layout).convert(row.fields, layout)
        except RowError as error:
            return error.at(row.ref)
        return self.placeholders.fill(replace(conversation, ref=row.ref))

    def render_row(self, conversation: Conversation, ref: RowRef) -> RenderedRow | BadRow:
        """The examples of one conversation within `cutoff_len`, or why there is nothing to train on."""
        try:
            full = self.renderer.examples(conversation, self.policy)
        except DataError as error:
            return BadRow(ref, error.where, ": ".join(filter(None, (error.what, error.why))), error.fix)
        examples = [cut_example(example, self.cutoff_len, self.renderer.stop_ids) for example in full]
        kept = [(new, len(old.input_ids)) for new, old in zip(examples, full, strict=True) if any(new.weights)]
        if not kept:
            return self._trains_on_nothing(ref, full)
        num_cut = sum(len(old.input_ids) - len(new.input_ids) for new, old in zip(examples, full, strict=True))
        return RenderedRow([new for new, _ in kept], [length for _, length in kept], num_cut)

    def _trains_on_nothing(self, ref: RowRef, full: Sequence[RenderedExample]) -> BadRow:
        starts = [_first_trained(example) for example in full if any(example.weights)]
        if not starts:
            return BadRow(ref, "", "no token of the row would be trained on", "remove it, or give an answer a weight")
        needed = max(len(example.input_ids) for example in full)
        fix = f"it begins at token {min(starts)}; the row has {needed}"
        return BadRow(ref, "", "answer lies beyond cutoff_len", fix, needed_cutoff_len=needed)

    def _judge_bad_rows(self, bad_rows: Sequence[BadRow], num_rows: Counter[str]) -> None:
        """Raises: DataError when a file has more bad rows than `on_bad_row` allows."""
        for file, bad in _by_file(bad_rows).items():
            allowed = {"drop": 1.0, "error": 0.0}.get(self.on_bad_row or "", MAX_BAD_SHARE)
            if len(bad) > allowed * num_rows[file]:
                raise _too_many_bad(file, bad, num_rows[file], self.on_bad_row)


def read_dataset(dataset: Dataset) -> RowStream:
    """The rows of all files of a dataset, one after the other."""
    return chain.from_iterable(read_rows(file, dataset.name) for file in dataset.files)


def peek(rows: RowStream, count: int) -> tuple[list[dict[str, Any]], RowStream]:
    """The fields of the readable rows among the first `count`, and the stream with nothing taken from it."""
    buffered = list(islice(rows, count))
    return [row.fields for row in buffered if isinstance(row, Row)], chain(buffered, rows)


def lay_out(dataset: Dataset, first: Sequence[dict[str, Any]], notes: list[str]) -> DatasetEntry:
    """The entry of a dataset, recognised from its first rows when it is not registered.

    Raises: DataError when the rows have no layout that is known, or not the registered one.
    """
    entry = dataset.entry
    if entry is None and first:
        entry = recognise(dataset.name, first)
        columns = {name: getattr(entry.columns, name) for name in entry.columns.__slots__}
        named = ", ".join(f"{part}: {column}" for part, column in columns.items() if column)
        notes.append(f"{dataset.name}: not registered; recognised as {entry.formatting} ({named})")
    if entry is None or not first:
        return entry or DatasetEntry(dataset.name)
    notes.extend(format_of(entry).check(entry, first))
    return entry


def recognise(name: str, first: Sequence[dict[str, Any]]) -> DatasetEntry:
    """The entry whose format and columns these rows have. Raises: DataError when none fits, or another stage does."""
    _refuse_other_stages(name, first)
    for format_name in FORMATS:
        entry = FORMATS.get(format_name).recognise(name, first)
        if entry is not None:
            return entry
    counts = column_counts(first)
    if counts["text"]:
        raise DataError(
            f"the rows of '{name}' are plain documents (a column 'text'), not questions and answers",
            where=name,
            fix="they fit `stage: pt`; for `stage: sft` give rows with instruction and output, or messages",
        )
    raise DataError(
        f"the format of '{name}' is not recognised: its columns are {counted(counts)}",
        where=name,
        fix='register it in dataset_info.json with "formatting" and "columns"',
    )


def _refuse_other_stages(name: str, first: Sequence[dict[str, Any]]) -> None:
    """Raises: DataError when rows that are not registered hold preference pairs or verdicts."""
    counts = column_counts(first)
    has_verdicts = any(isinstance(row.get("label"), bool) for row in first)
    if not has_verdicts and not (counts["chosen"] and counts["rejected"]):
        return
    kind = "answers with a thumb up or down ('label')" if has_verdicts else "pairs ('chosen' and 'rejected')"
    stages = "kto" if has_verdicts else "dpo or rm"
    raise DataError(
        f"the rows of '{name}' hold {kind}, which `stage: sft` would train on without looking at the verdict",
        where=name,
        fix=f"they fit stage {stages}; to train on all answers alike, register the file with its columns",
    )


def format_of(entry: DatasetEntry) -> Format:
    """The format that reads this dataset."""
    found: Format = FORMATS.get(entry.formatting)
    return found


def check_stage(entry: DatasetEntry, stage: str) -> None:
    """Raises: DataError when the dataset is made for other stages, or holds media."""
    if entry.ranking or entry.columns.chosen or entry.columns.rejected:
        kind, stages = "pairs of a better and a worse answer (ranking)", "dpo or rm"
    elif entry.columns.kto_tag:
        kind, stages = "answers with a thumb up or down (kto_tag)", "kto"
    elif entry.columns.images or entry.columns.videos or entry.columns.audios:
        raise DataError(
            f"dataset '{entry.name}' holds images, videos or audio, which cannot be trained on yet",
            where=f"{entry.where}, columns",
            fix="use a text dataset, or remove the media column from the entry to train on the text alone",
        )
    else:
        return
    raise DataError(
        f"dataset '{entry.name}' holds {kind}, which `stage: {stage}` cannot learn from",
        where=entry.where,
        fix=f"it fits stage {stages}; for `stage: {stage}` name a dataset of questions and answers",
    )


def _draw(seed: int, name: str, index: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}:{index}".encode()).digest()


def _first_trained(example: RenderedExample) -> int:
    return next(position for position, weight in enumerate(example.weights) if weight)


def _by_file(bad_rows: Sequence[BadRow]) -> dict[str, list[BadRow]]:
    groups: dict[str, list[BadRow]] = {}
    for bad in bad_rows:
        groups.setdefault(bad.ref.file, []).append(bad)
    return groups


def _too_many_bad(file: str, bad: Sequence[BadRow], num_rows: int, on_bad_row: str | None) -> DataError:
    listed = [f"{row.ref}: {row.reason}" for row in bad[:_NUM_LISTED]]
    if len(bad) > _NUM_LISTED:
        reasons = Counter(row.why for row in bad).most_common(3)
        listed.append(f"... and {len(bad) - _NUM_LISTED} more; most often:")
        listed += [f"{number}x {why}" for why, number in reasons]
    limit = "on_bad_row: error" if on_bad_row == "error" else f"unset, on_bad_row allows {MAX_BAD_SHARE:.0%} of a file"
    return DataError(
        f"{len(bad)} of {num_rows} rows of {file} cannot be trained on ({limit})",
        where=str(bad[0].ref),
        why="\n".join(listed),
        fix="\n".join([*_remedies(bad), "or set `on_bad_row: drop`: they are left out and listed in ledger.jsonl"]),
    )


def _remedies(bad: Sequence[BadRow]) -> list[str]:
    """What to do about these rows: the most frequent remedies, each once."""
    needed_cutoff_len = max(row.needed_cutoff_len for row in bad)
    other = (row.fix for row in bad if not row.needed_cutoff_len)
    fixes = Counter(fix for fix in other if fix and "on_bad_row" not in fix)
    cutoff = [f"set `cutoff_len: {needed_cutoff_len}`"] if needed_cutoff_len else []
    return [*cutoff, *(fix for fix, _ in fixes.most_common(3))]
