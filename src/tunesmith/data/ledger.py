"""The row ledger: every input row ends as exactly one of whole, cut or dropped, and may be a duplicate.

The law, asserted for every file: rows in = whole + cut + dropped. What is lost is listed row by row with
its file and line; what is whole is only counted. The totals are printed before the first step and stay
with the run (`ledger.jsonl`, `ledger_summary.json`), so that nobody has to guess what a model has seen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.types import RowRef

Use = Literal["train", "eval"]
Outcome = Literal["whole", "cut", "dropped"]
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one input row.

    Attributes:
        num_cut_tokens: tokens lost behind `cutoff_len` (outcome "cut").
        num_chunks: above 1: a long document that is whole, but in so many chunks.
        reason: why the row was dropped, with the field at fault and the remedy where known.
        duplicate_of: the first row of the same content, when there is one.
    """

    ref: RowRef
    use: Use
    outcome: Outcome
    num_cut_tokens: int = 0
    reason: str = ""
    field: str = ""
    fix: str = ""
    duplicate_of: RowRef | None = None
    num_chunks: int = 1

    def to_json(self) -> dict[str, Any]:
        """The entry as a line of `ledger.jsonl`; parts that say nothing are left out."""
        ref = self.ref
        row: dict[str, Any] = {"dataset": ref.dataset, "file": ref.file, "line": ref.line, "index": ref.index}
        row |= {"use": self.use, "outcome": self.outcome}
        optional = {"num_cut_tokens": self.num_cut_tokens, "reason": self.reason, "field": self.field, "fix": self.fix}
        row |= {name: value for name, value in optional.items() if value}
        if self.num_chunks > 1:
            row["num_chunks"] = self.num_chunks
        if self.duplicate_of is not None:
            row["duplicate_of"] = str(self.duplicate_of)
        return row


@dataclass(slots=True)
class FileCounts:
    """How the rows of one file ended."""

    dataset: str
    file: str
    use: Use
    num_rows: int = 0
    num_whole: int = 0
    num_cut: int = 0
    num_dropped: int = 0
    num_duplicates: int = 0
    num_cut_tokens: int = 0
    num_split: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """What is trained (or evaluated) on, after cutting, dropping and splitting.

    `num_turns` counts the answers with trained tokens, `num_stops` those of them that end in a trained
    stop token; `max_length` and `mean_length` are tokens per example.
    """

    num_rows: int
    num_examples: int
    num_tokens: int
    num_trained_tokens: int
    num_turns: int
    num_stops: int
    max_length: int
    mean_length: float

    def lines(self, use: str) -> list[str]:
        """Up to two lines for people."""
        share = 100 * self.num_trained_tokens / max(1, self.num_tokens)
        examples = f" in {self.num_examples:,} examples" if self.num_examples != self.num_rows else ""
        lines = [
            f"{use}: {self.num_rows:,} rows{examples}, {self.num_tokens:,} tokens, {self.num_trained_tokens:,} trained "
            f"({share:.1f} %); tokens per example: mean {self.mean_length:,.0f}, longest {self.max_length:,}"
        ]
        if self.num_turns:
            ended = f"{self.num_stops:,} of {self.num_turns:,} trained turns end in a trained stop token"
            lines.append(f"{use}: {ended}")
        return lines


@dataclass
class Ledger:
    """The account of all input rows of a run."""

    entries: list[Entry] = field(default_factory=list)
    totals: dict[str, Totals] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    num_held_out: int = 0
    num_overlap: int = 0
    _files: dict[tuple[str, str, Use], FileCounts] = field(default_factory=dict)
    _repeats: Counter[RowRef] = field(default_factory=Counter)

    def count_input(self, ref: RowRef, use: Use) -> None:
        """Count a row that came in; `record` must follow for the same row."""
        self._counts(ref, use).num_rows += 1

    def record(self, entry: Entry) -> None:
        """Enter what became of a row; rows in one whole example that repeat nothing are only counted."""
        counts = self._counts(entry.ref, entry.use)
        if entry.outcome == "whole":
            counts.num_whole += 1
        elif entry.outcome == "cut":
            counts.num_cut += 1
            counts.num_cut_tokens += entry.num_cut_tokens
        else:
            counts.num_dropped += 1
        if entry.duplicate_of is not None:
            counts.num_duplicates += 1
            self._repeats[entry.duplicate_of] += 1
        counts.num_split += entry.num_chunks > 1
        if entry.outcome != "whole" or entry.duplicate_of is not None or entry.num_chunks > 1:
            self.entries.append(entry)

    def _counts(self, ref: RowRef, use: Use) -> FileCounts:
        key = (ref.dataset, ref.file, use)
        if key not in self._files:
            self._files[key] = FileCounts(ref.dataset, ref.file, use)
        return self._files[key]

    @property
    def files(self) -> list[FileCounts]:
        """The counts per file, in the order in which the files were read."""
        return list(self._files.values())

    def check(self) -> None:
        """Assert the law of conservation for every file."""
        for counts in self.files:
            ended = counts.num_whole + counts.num_cut + counts.num_dropped
            assert counts.num_rows == ended, f"{counts.file}: {counts.num_rows} rows in, {ended} accounted for"

    def dropped(self) -> list[Entry]:
        """The dropped rows, in the order in which they were read."""
        return [entry for entry in self.entries if entry.outcome == "dropped"]

    def summary_lines(self) -> list[str]:
        """The account as aligned lines for people, notes last."""
        lines = _table(self.files)
        for use, totals in self.totals.items():
            lines += totals.lines(use)
        lines += self._split_lines() + self._loss_lines()
        return lines + [f"note: {note}" for note in self.notes]

    def _split_lines(self) -> list[str]:
        num_split = sum(counts.num_split for counts in self.files)
        if not num_split:
            return []
        num_chunks = sum(entry.num_chunks for entry in self.entries if entry.num_chunks > 1)
        into = f"{num_chunks:,} chunks of at most cutoff_len tokens"
        return [f"split: {num_split:,} long documents into {into}; no token is lost"]

    def _loss_lines(self) -> list[str]:
        lines = []
        dropped = self.dropped()
        if dropped:
            reasons = Counter(entry.reason for entry in dropped)
            shown = "; ".join(f"{reason} ({number}x)" for reason, number in reasons.most_common(3))
            more = f"; and {len(reasons) - 3} other reasons" if len(reasons) > 3 else ""
            lines.append(f"dropped: {len(dropped):,} rows, first {dropped[0].ref}: {shown}{more}")
        num_cut_tokens = sum(counts.num_cut_tokens for counts in self.files)
        if num_cut_tokens:
            lines.append(f"cut: {num_cut_tokens:,} tokens beyond cutoff_len")
        if self._repeats:
            first, number = self._repeats.most_common(1)[0]
            lines.append(
                f"duplicates: {self._repeats.total():,} rows repeat an earlier one; "
                f"most often {first}, {number + 1:,} times in all"
            )
        return lines

    def write(self, folder: Path) -> None:
        """Write `ledger.jsonl` and `ledger_summary.json` into an existing folder."""
        with (folder / "ledger.jsonl").open("w", encoding="utf-8") as file:
            for entry in self.entries:
                file.write(json.dumps(entry.to_json(), ensure_ascii=False) + "\n")
        summary = json.dumps(self.summary(), ensure_ascii=False, indent=2)
        (folder / "ledger_summary.json").write_text(summary + "\n", encoding="utf-8")

    def summary(self) -> dict[str, Any]:
        """The totals as JSON values, as in `ledger_summary.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "files": [asdict(counts) for counts in self.files],
            "totals": {use: asdict(totals) for use, totals in self.totals.items()},
            "dropped_reasons": dict(Counter(entry.reason for entry in self.dropped()).most_common()),
            "most_repeated": [
                {"row": str(ref), "num_times": number + 1} for ref, number in self._repeats.most_common(10)
            ],
            "num_held_out": self.num_held_out,
            "num_overlap": self.num_overlap,
            "notes": list(self.notes),
        }


_COLUMNS = ("rows in", "whole", "cut", "dropped", "duplicates")


def _table(files: Sequence[FileCounts]) -> list[str]:
    """Names left, numbers right, a sum below when there is more than one file."""
    rows = [(counts.file + (" (eval)" if counts.use == "eval" else ""), _numbers(counts)) for counts in files]
    if len(rows) > 1:
        rows.append(("all files", [sum(column) for column in zip(*(numbers for _, numbers in rows), strict=True)]))
    name_width = max([len("file"), *(len(name) for name, _ in rows)])
    widths = [max(len(title), *_widths(rows, index)) for index, title in enumerate(_COLUMNS)] if rows else []
    lines = ["  ".join(["file".ljust(name_width), *(t.rjust(w) for t, w in zip(_COLUMNS, widths, strict=False))])]
    for name, numbers in rows:
        cells = [f"{number:,}".rjust(width) for number, width in zip(numbers, widths, strict=True)]
        lines.append("  ".join([name.ljust(name_width), *cells]))
    return lines


def _widths(rows: Iterable[tuple[str, list[int]]], index: int) -> list[int]:
    return [len(f"{numbers[index]:,}") for _, numbers in rows]


def _numbers(counts: FileCounts) -> list[int]:
    return [counts.num_rows, counts.num_whole, counts.num_cut, counts.num_dropped, counts.num_duplicates]
