"""Shows rows as the model will see them: every token, and whether it is trained on.

The rows go through the very code that prepares a run (convert, fill, render, cut), so what is shown is
what is trained. In a terminal trained tokens are coloured; without colours (NO_COLOR, a pipe) they stand
in [[double brackets]]. `preview_html` writes the same as a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data.catalog import Dataset, open_catalog
from tunesmith.data.intake import NUM_PEEKED_ROWS, Intake, peek, read_dataset
from tunesmith.data.ledger import Ledger
from tunesmith.data.prepare import make_intake
from tunesmith.data.rows import BadRow, Row
from tunesmith.data.schema import DatasetEntry
from tunesmith.types import RenderedExample, RowRef

if TYPE_CHECKING:
    from tunesmith.config import Config
    from tunesmith.render import Renderer

_TRAINED_ANSI, _DIM_ANSI, _BOLD_ANSI, _RESET_ANSI = "\x1b[30;42m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a preview."""

    id: int
    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class PreviewedRow:
    """One row of a preview: its examples as tokens, or why it cannot be trained on.

    `number` counts the rows of all datasets from 1.
    """

    number: int
    ref: RowRef
    examples: tuple[tuple[Token, ...], ...]
    num_cut_tokens: int = 0
    problem: str = ""

    @property
    def headline(self) -> str:
        """`row 3, data/rows.json:12: 34 tokens, 12 trained`."""
        if self.problem:
            return f"row {self.number}, {self.problem}"
        tokens = [token for example in self.examples for token in example]
        parts = [f"{len(tokens)} tokens", f"{sum(token.weight != 0 for token in tokens)} trained"]
        if len(self.examples) > 1:
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
    shown = [_previewed(number, row, renderer) for number, row in chosen]
    return Preview(shown, [*renderer.notes, *ledger.notes, *intake.placeholders.notes()], renderer.template_name)


_RowResult = tuple[RowRef, list[RenderedExample], int, str]


def _dataset_rows(intake: Intake, dataset: Dataset) -> Iterator[_RowResult]:
    first, rows = peek(read_dataset(dataset), NUM_PEEKED_ROWS)
    layout = intake.lay_out(dataset, first)
    for row in rows:
        yield _render(intake, row, layout)


def _render(intake: Intake, row: Row | BadRow, layout: DatasetEntry) -> _RowResult:
    converted = row if isinstance(row, BadRow) else intake.convert_row(row, layout)
    rendered = converted if isinstance(converted, BadRow) else intake.render_row(converted, row.ref)
    if isinstance(rendered, BadRow):
        return row.ref, [], 0, str(rendered)
    return row.ref, rendered.examples, rendered.num_cut_tokens, ""


def _previewed(number: int, row: _RowResult, renderer: Renderer) -> PreviewedRow:
    ref, examples, num_cut_tokens, problem = row
    tokens = tuple(
        tuple(map(Token, example.ids, renderer.token_texts(example.ids), example.weights)) for example in examples
    )
    return PreviewedRow(number, ref, tokens, num_cut_tokens, problem)


def text_lines(shown: Preview, *, colour: bool, with_ids: bool) -> list[str]:
    """The preview for a terminal.

    Args:
        colour: mark trained tokens by colour; otherwise by [[brackets]].
        with_ids: one line per token with its id and weight instead of running text.
    """
    legend = f"{_TRAINED_ANSI}trained{_RESET_ANSI} {_DIM_ANSI}context{_RESET_ANSI}" if colour else "[[trained]] context"
    lines = [f"template: {shown.template_name}    {legend}"]
    lines += [f"note: {note}" for note in shown.notes]
    for row in shown.rows:
        headline = f"{_BOLD_ANSI}{row.headline}{_RESET_ANSI}" if colour else row.headline
        lines += ["", headline]
        for example in row.examples:
            lines += _id_lines(example, colour) if with_ids else [_running_text(example, colour)]
    return lines


def _running_text(example: Sequence[Token], colour: bool) -> str:
    parts = []
    for trained, tokens in groupby(example, key=lambda token: token.weight != 0):
        text = "".join(token.text for token in tokens)
        parts.append(_marked(text, trained, colour))
    return "".join(parts)


def _marked(text: str, trained: bool, colour: bool) -> str:
    if not colour:
        return f"[[{text}]]" if trained else text
    style = _TRAINED_ANSI if trained else _DIM_ANSI
    # each line is coloured by itself, so that a pager or a scrolled terminal does not lose the colour
    return "\n".join(f"{style}{line}{_RESET_ANSI}" if line else "" for line in text.split("\n"))


def _id_lines(example: Sequence[Token], colour: bool) -> list[str]:
    width = max(len(str(token.id)) for token in example)
    lines = []
    for position, token in enumerate(example):
        text = _marked(repr(token.text)[1:-1], token.weight != 0, colour)
        lines.append(f"{position:>5}  {token.id:>{width}}  {token.weight:>4g}  {text}")
    return lines
