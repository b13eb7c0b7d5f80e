"""Takes one dataset in: read, choose rows, convert, fill placeholders, render, cut, and account for each row.

Rows stream through one at a time; only their tokens stay. What becomes of bad rows is decided at the end
of the dataset, when their share of each file is known, so that one message can list them together.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from tunesmith.data.catalog import Dataset
from tunesmith.data.fit import check_stage, format_of, recognise, without_absent_answers
from tunesmith.data.kinds import KINDS, KindName
from tunesmith.data.kinds.base import RenderedRow, Rendering
from tunesmith.data.ledger import Entry, Ledger, Outcome, Use
from tunesmith.data.placeholders import Placeholders
from tunesmith.data.rows import BadRow, Row, RowError, RowStream
from tunesmith.data.rowset import RowSet, content_digest
from tunesmith.data.schema import DatasetEntry
from tunesmith.data.sources import read_rows
from tunesmith.errors import DataError
from tunesmith.types import RowRef, TrainingRow

NUM_PEEKED_ROWS = 200
MAX_BAD_SHARE = 0.01
_NUM_LISTED = 10


@dataclass
class Intake:
    """The settings and accounts that all datasets of a run share.

    Attributes:
        kind: what the rows are read as; `stage` asked for it.
        on_bad_row: "error", "drop", or None: drop up to 1 % of a file's rows.
        drop_duplicates: whether a row that repeats an earlier one is left out.
        max_samples: at most this many rows of each dataset, the first ones.
    """

    rendering: Rendering
    ledger: Ledger
    placeholders: Placeholders
    stage: str
    kind: KindName
    seed: int
    max_samples: int | None = None
    on_bad_row: str | None = None
    drop_duplicates: bool = False

    def take(self, dataset: Dataset, rows_out: RowSet, use: Use) -> None:
        """Take all rows of a dataset. Raises: DataError when it is empty, does not fit, or has too many bad rows."""
        first, rows = peek(read_dataset(dataset), NUM_PEEKED_ROWS)
        layout = self.lay_out(dataset, first)
        bad_rows: list[BadRow] = []
        num_rows: Counter[str] = Counter()
        for row in self.choose(rows, layout):
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

    def choose(self, rows: RowStream, entry: DatasetEntry) -> RowStream:
        """The rows that `num_samples` and `max_samples` take."""
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
        training_row = self.convert_row(row, layout)
        if isinstance(training_row, BadRow):
            return training_row
        digest = content_digest(training_row)
        first = rows_out.first_of(digest)
        if first is not None and self.drop_duplicates:
            self.ledger.record(Entry(row.ref, use, "dropped", reason="duplicate", duplicate_of=first))
            return None
        rendered = self.render_row(training_row, row.ref)
        if isinstance(rendered, BadRow):
            return rendered
        rows_out.add(digest, row.ref, rendered)
        outcome: Outcome = "cut" if rendered.num_cut_tokens else "whole"
        self.ledger.record(
            Entry(row.ref, use, outcome, rendered.num_cut_tokens, duplicate_of=first, num_chunks=rendered.num_chunks)
        )
        return None

    def lay_out(self, dataset: Dataset, first: Sequence[dict[str, Any]]) -> DatasetEntry:
        """The entry of a dataset, recognised from its first rows when it is not registered.

        Raises: DataError when the rows have no layout that is known, or not the registered one, or fit other stages.
        """
        entry = dataset.entry
        if entry is None and first:
            entry = recognise(dataset.name, first, self.kind)
            columns = {name: getattr(entry.columns, name) for name in entry.columns.__slots__}
            named = ", ".join(f"{part}: {column}" for part, column in columns.items() if column)
            self.ledger.notes.append(f"{dataset.name}: not registered; recognised as {entry.formatting} ({named})")
        if entry is None:
            return DatasetEntry(dataset.name)
        check_stage(entry, self.kind, self.stage, first)
        if not first:
            return entry
        if self.kind == "prompt":
            entry = without_absent_answers(entry, first)
        self.ledger.notes.extend(format_of(entry).check(entry, first))
        return entry

    def convert_row(self, row: Row, layout: DatasetEntry) -> TrainingRow | BadRow:
        """What a row holds, its placeholders filled, or why it holds nothing to learn from."""
        try:
            return self.placeholders.fill(KINDS[self.kind].read(row, layout, format_of(layout)))
        except RowError as error:
            return error.at(row.ref)

    def render_row(self, row: TrainingRow, ref: RowRef) -> RenderedRow | BadRow:
        """The examples of one row within `cutoff_len`, or why there is nothing to learn from."""
        try:
            return KINDS[self.kind].render(row, self.rendering)
        except RowError as error:
            return error.at(ref)
        except DataError as error:
            return BadRow(ref, error.where, ": ".join(filter(None, (error.what, error.why))), error.fix)

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


def _draw(seed: int, name: str, index: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}:{index}".encode()).digest()


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
