"""How the terminal chat shows answers: streamed text, dimmed thoughts, readable calls, two models side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunesmith.render.reader import ContentDelta, Delta, ReasoningDelta
from tunesmith.serve.answering import Answering, Draft
from tunesmith.types import ToolCall

WIDE_COLUMNS = 100
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass
class Screen:
    """Where answers go. `dims`: whether the terminal shows dimmed text."""

    out: TextIO
    dims: bool = False
    _is_dimmed: bool = False

    def write(self, text: str) -> None:
        """Plain text, at once."""
        self.out.write(text)
        self.out.flush()

    def show(self, deltas: Sequence[Delta]) -> None:
        """What became readable: thoughts dimmed, calls as `name(arguments)`."""
        for delta in deltas:
            self._dim(isinstance(delta, ReasoningDelta))
            if isinstance(delta, ContentDelta | ReasoningDelta):
                self.write(delta.text)
            else:
                self.write((f"\n[{delta.name}] " if delta.name else "") + delta.arguments)

    def end(self) -> None:
        """The answer is over."""
        self._dim(False)
        self.write("\n")

    def _dim(self, wanted: bool) -> None:
        if self.dims and wanted != self._is_dimmed:
            self.write(_DIM if wanted else f"{_PLAIN}\n")
        self._is_dimmed = wanted

    def compare(self, answering: Answering, names: Sequence[str]) -> None:
        """Show several answers as they come: in columns on a wide terminal, else one after the other."""
        console = Console(file=self.out)
        if console.is_terminal and console.width >= WIDE_COLUMNS:
            with Live(console=console, transient=True, auto_refresh=False) as live:
                for _ in answering.updates():
                    live.update(_columns(answering.drafts, names), refresh=True)
            console.print(_columns(answering.drafts, names))
            return
        for _ in answering.updates():
            pass
        for draft, name in zip(answering.drafts, names, strict=True):
            self.write(f"[{name}] {_whole(draft)}\n")


def dims_text(out: TextIO) -> bool:
    """Whether dimmed text can be shown: a terminal, and nobody has asked for no colours."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def call_text(call: ToolCall) -> str:
    """A call as people read it."""
    return f"{call.name}({call.arguments})"


def _whole(draft: Draft) -> str:
    thought = f"({draft.reasoning.strip()})\n" if draft.reasoning.strip() else ""
    return "\n".join([thought + draft.content.strip(), *map(call_text, draft.calls)]).strip()


def _columns(drafts: Sequence[Draft], names: Sequence[str]) -> Table:
    table = Table(expand=True, show_lines=False)
    for name in names:
        table.add_column(name, ratio=1, overflow="fold")
    cells: list[Any] = []
    for draft in drafts:
        cell = Text(draft.reasoning.strip() + "\n", style="dim") if draft.reasoning.strip() else Text()
        cell.append(draft.content.strip(), style="not dim")
        cell.append("".join(f"\n{call_text(call)}" for call in draft.calls), style="bold not dim")
        cells.append(cell)
    table.add_row(*cells)
    return table
