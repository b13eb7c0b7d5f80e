"""Where a run's numbers go: the terminal, `trainer_log.jsonl` and `run.log`.

`trainer_log.jsonl` keeps the key names that existing readers know. After a resume the lines behind the
checkpoint are cut off first, so the file reads like that of an unbroken run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

TRAINER_LOG, RUN_LOG = "trainer_log.jsonl", "run.log"
PLAIN_INTERVAL_S = 15.0


class Reporter:
    """Tells the user and the files what happens; silent on every rank but the first.

    Args:
        folder: the run folder; None before there is one.
        is_main: whether this rank speaks.
    """

    def __init__(self, folder: Path, is_main: bool) -> None:
        self._is_main = is_main
        self._console = Console(stderr=False, highlight=False, soft_wrap=True)
        self._folder = folder
        self._text: TextIO | None = None
        self._progress: Progress | None = None
        self._task: Any = None
        self._last_plain_s = 0.0

    def open_files(self, resumed_step: int | None) -> None:
        """Start or continue the run's files; `resumed_step` None starts them anew."""
        if not self._is_main:
            return
        log = self._folder / TRAINER_LOG
        kept = []
        if resumed_step is not None and log.is_file():
            for line in log.read_text(encoding="utf-8").splitlines():
                if _step_of(line) is not None and _step_of(line, 0) <= resumed_step:
                    kept.append(line + "\n")
        log.write_text("".join(kept), encoding="utf-8")
        self._text = (self._folder / RUN_LOG).open("w" if resumed_step is None else "a", encoding="utf-8")

    def say(self, line: str, style: str | None = None) -> None:
        """One line for the user and the text log."""
        if not self._is_main:
            return
        self._console.print(Text(line, style=style or ""))
        self._write_text(line)

    def start(self, total_steps: int, done_steps: int) -> None:
        """Show progress from here on."""
        self._last_plain_s = time.monotonic()
        if not self._is_main or not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            _Numbers(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("train", total=total_steps, completed=done_steps)
        self._progress.start()

    def step(self, step: int, total: int, loss: float, tokens_per_s: float, remaining_s: float) -> None:
        """Live numbers of one optimizer step."""
        if not self._is_main:
            return
        if self._progress is not None:
            self._progress.update(
                self._task, completed=step, loss=loss, tokens_per_s=tokens_per_s, remaining_s=remaining_s
            )
        elif time.monotonic() - self._last_plain_s > PLAIN_INTERVAL_S:
            self._last_plain_s = time.monotonic()
            eta = clock(remaining_s)
            self.say(f"step {step}/{total}  loss {loss:.4f}  {tokens_per_s:,.0f} tokens/s  {eta} left")

    def log(self, record: Mapping[str, Any], line: str) -> None:
        """One record for `trainer_log.jsonl` and one line for people."""
        if not self._is_main:
            return
        with (self._folder / TRAINER_LOG).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({k: v for k, v in record.items() if v is not None}) + "\n")
        self._last_plain_s = time.monotonic()
        self.say(line)

    def stop(self) -> None:
        """End the live display; idempotent."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def close(self) -> None:
        """Stop and close the files."""
        self.stop()
        if self._text is not None:
            self._text.close()
            self._text = None

    def _write_text(self, line: str) -> None:
        if self._text is not None:
            self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            self._text.flush()


class _Numbers(ProgressColumn):
    """Loss, speed and time left, as soon as there is a step to speak of."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        fields = task.fields
        if "loss" not in fields:
            return Text("starting", style="dim")
        return Text(
            f"loss {fields['loss']:.4f}  {fields['tokens_per_s']:,.0f} tokens/s  {clock(fields['remaining_s'])} left"
        )


def _step_of(line: str, otherwise: Any = None) -> Any:
    try:
        return json.loads(line).get("current_steps", otherwise)
    except (ValueError, AttributeError):
        return otherwise


def clock(seconds: float) -> str:
    """H:MM:SS, rounded down."""
    return str(timedelta(seconds=int(max(seconds, 0))))
