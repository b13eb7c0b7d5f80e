"""Shows rows as the model will see them: every token, and whether it is trained on.

The rows go through the very code that prepares a run (convert, fill, render, cut), so what is shown is
what is trained. In a terminal trained tokens are coloured, those of a worse answer in red; without colours (NO_COLOR,
a pipe) they stand in [[double brackets]]. `preview_html` writes the same as a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data.catalog import Dataset, open_catalog
from tunesmith.data.intake import NUM_PEEKED_ROWS, Intake, peek, read_dataset
from tunesmith.data.kinds import KINDS
from tunesmith.data.kinds.base import Example, Kind, RenderedRow
from tunesmith.data.ledger import Ledger
from tunesmith.data.prepare import make_intake
from tunesmith.data.rows import BadRow, Row
from tunesmith.data.schema import DatasetEntry
from tunesmith.types import RowRef

if TYPE_CHECKING:
    from tunesmith.config import Config
    from tunesmith.render import Renderer

_TRAINED_ANSI, _WORSE_ANSI = "\x1b[30;42m", "\x1b[30;41m"
_DIM_ANSI, _BOLD_ANSI, _RESET_ANSI = "\x1b[2m", "\x1b[1m", "\x1b[0m"
WORSE_PARTS = ("rejected", "bad answer")


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a preview."""

    id: int
    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class PreviewedRow:
    """One row of a preview: its examples as tokens, or why it cannot be trained on.

    `number` counts the rows of all datasets from 1. Where an example consists of parts (prompt, chosen, rejected), each
    stands in `examples` by itself, and `part_names` says what it is.
    """

    number: int
    ref: RowRef
    examples: tuple[tuple[Token, ...], ...]
    num_cut_tokens: int = 0
    problem: str = ""
    part_names: tuple[str, ...] = ()

    def part_name(self, index: int) -> str:
        """What the example of this index is; "" for a whole one."""
        return self.part_names[index] if self.part_names else ""

    @property
    def headline(self) -> str:
        """`row 3, data/rows.json:12: 34 tokens, 12 trained`."""
        if self.problem:
            return f"row {self.number}, {self.problem}"
        tokens = [token for example in self.examples for token in example]
        parts = [f"{len(tokens)} tokens", f"{sum(token.weight != 0 for token in tokens)} trained"]
        if len(self.examples) > 1 and not self.part_names:
            parts.append(f"{len(self.examples)} examples")
        if self.num_cut_tokens:
            parts.append(f"{self.num_cut_tokens} more cut at cutoff_len")
        return f"row {self.number}, {self.ref}: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Preview:
    """Some rows of a configuration's datasets, and what the user should know about them."""

    rows: list[PreviewedRow]
    notes: list[str]
    template_name: str


def preview(config: Config, renderer: Renderer, config_dir: Path, *, start: int = 1, limit: int = 3) -> Preview:
    """The rows from number `start` (from 1) on, at most `limit` of them.

    Raises: DataError when a dataset is not found or its layout does not fit.
    """
    ledger = Ledger()
    intake = make_intake(config, renderer, ledger)
    catalog = open_catalog(config.dataset_dir, config_dir)
    rows = (row for name in config.dataset for row in _dataset_rows(intake, catalog.find(name)))
    chosen = islice(enumerate(rows, start=1), start - 1, start - 1 + limit)
    shown = [_previewed(number, row, KINDS[intake.kind], renderer) for number, row in chosen]
    return Preview(shown, [*renderer.notes, *ledger.notes, *intake.placeholders.notes()], renderer.template_name)


_RowResult = tuple[RowRef, RenderedRow | BadRow]


def _dataset_rows(intake: Intake, dataset: Dataset) -> Iterator[_RowResult]:
    first, rows = peek(read_dataset(dataset), NUM_PEEKED_ROWS)
    layout = intake.lay_out(dataset, first)
    for row in rows:
        yield _render(intake, row, layout)


def _render(intake: Intake, row: Row | BadRow, layout: DatasetEntry) -> _RowResult:
    converted = row if isinstance(row, BadRow) else intake.convert_row(row, layout)
    return row.ref, converted if isinstance(converted, BadRow) else intake.render_row(converted, row.ref)


def _previewed(number: int, row: _RowResult, kind: Kind, renderer: Renderer) -> PreviewedRow:
    ref, rendered = row
    if isinstance(rendered, BadRow):
        return PreviewedRow(number, ref, (), problem=str(rendered))
    tokens = tuple(part for example in rendered.examples for part in _parts(example, renderer))
    names = tuple(name for example in rendered.examples for name in kind.part_names(example))
    return PreviewedRow(number, ref, tokens, rendered.num_cut_tokens, part_names=names)


def _parts(example: Example, renderer: Renderer) -> Iterator[tuple[Token, ...]]:
    """The pieces of an example; each branch is decoded behind the prefix, as the model reads it."""
    num_prefix, *branches = example.piece_lengths or (0, len(example.ids))
    prefix = example.ids[:num_prefix]
    if example.piece_lengths:
        yield tuple(map(Token, prefix, renderer.token_texts(prefix), example.weights))
    start = num_prefix
    for length in branches:
        ids = example.ids[start : start + length]
        texts = renderer.token_texts([*prefix, *ids])[num_prefix:]
        yield tuple(map(Token, ids, texts, example.weights[start:]))
        start += length


def text_lines(shown: Preview, *, colour: bool, with_ids: bool) -> list[str]:
    """The preview for a terminal.

    Args:
        colour: mark trained tokens by colour; otherwise by [[brackets]].
        with_ids: one line per token with its id and weight instead of running text.
    """
    legend = f"{_TRAINED_ANSI}trained{_RESET_ANSI} {_DIM_ANSI}context{_RESET_ANSI}" if colour else "[[trained]] context"
    if colour and any(name in WORSE_PARTS for row in shown.rows for name in row.part_names):
        legend += f" {_WORSE_ANSI}worse{_RESET_ANSI}"
    lines = [f"template: {shown.template_name}    {legend}"]
    lines += [f"note: {note}" for note in shown.notes]
    for row in shown.rows:
        headline = f"{_BOLD_ANSI}{row.headline}{_RESET_ANSI}" if colour else row.headline
        lines += ["", headline]
        for index, example in enumerate(row.examples):
            name = row.part_name(index)
            lines += [f"-- {name}"] if name else []
            style = _style(name) if colour else ""
            lines += _id_lines(example, style) if with_ids else [_running_text(example, style)]
    return lines


def _style(part_name: str) -> str:
    return _WORSE_ANSI if part_name in WORSE_PARTS else _TRAINED_ANSI


def _running_text(example: Sequence[Token], style: str) -> str:
    parts = []
    for trained, tokens in groupby(example, key=lambda token: token.weight != 0):
        text = "".join(token.text for token in tokens)
        parts.append(_marked(text, trained, style))
    return "".join(parts)


def _marked(text: str, trained: bool, style: str) -> str:
    """Trained text in `style`, other text dimmed; without a style trained text in brackets."""
    if not style:
        return f"[[{text}]]" if trained else text
    style = style if trained else _DIM_ANSI
    # each line is coloured by itself, so that a pager or a scrolled terminal does not lose the colour
    return "\n".join(f"{style}{line}{_RESET_ANSI}" if line else "" for line in text.split("\n"))


def _id_lines(example: Sequence[Token], style: str) -> list[str]:
    width = max((len(str(token.id)) for token in example), default=0)
    lines = []
    for position, token in enumerate(example):
        text = _marked(repr(token.text)[1:-1], token.weight != 0, style)
        lines.append(f"{position:>5}  {token.id:>{width}}  {token.weight:>4g}  {text}")
    return lines
