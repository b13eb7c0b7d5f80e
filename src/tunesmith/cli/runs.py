"""`tunesmith runs`: a table of run folders, or one run in detail with the commands that make sense next."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.runs.directory import RunInfo

DEFAULT_ROOT = "saves"
ACTIONS = ("list", "show")


def run(argv: list[str]) -> int:
    """`[list] [FOLDER]` prints the table, `show RUN_FOLDER` one run. Raises: UserError."""
    action, rest = (argv[0], argv[1:]) if argv and argv[0] in ACTIONS else ("list", list(argv))
    if len(rest) > 1 or any(word.startswith("-") for word in rest):
        raise UserError(f"`runs {action}` takes one folder, not '{' '.join(rest)}'", fix="see `tunesmith runs --help`")
    if action == "show":
        if not rest:
            raise UserError("`runs show` needs the folder of a run", fix="`tunesmith runs` lists them")
        return _show(Path(rest[0]))
    return _list(Path(rest[0] if rest else DEFAULT_ROOT))


def _list(root: Path) -> int:
    from rich.console import Console
    from rich.table import Table

    from tunesmith.runs.directory import find_runs, read_run

    if not root.is_dir():
        raise UserError(
            f"there is no folder '{root}'", fix="give the folder that holds your runs: `tunesmith runs FOLDER`"
        )
    paths = find_runs(root)
    if not paths:
        print(f"no runs below {root}")
        return 0
    table = Table(box=None, pad_edge=False)
    for title, justify in (
        ("run", "left"),
        ("status", "left"),
        ("steps", "right"),
        ("loss", "right"),
        ("changed", "left"),
    ):
        table.add_column(title, justify=justify, overflow="fold", no_wrap=title != "run")  # type: ignore[arg-type]
    for path in paths:
        info = read_run(path)
        table.add_row(str(path), info.status, _steps(info), _number(info.loss), _when(info.changed_s))
    Console(highlight=False).print(table)
    return 0


def _show(path: Path) -> int:
    from tunesmith.runs.directory import read_run

    info = read_run(path)
    lines = [
        f"run       {path}",
        f"status    {info.status}",
        f"steps     {_steps(info)}",
        f"loss      {_number(info.loss)}"
        + (f"  (eval {_number(info.eval_loss)})" if info.eval_loss is not None else ""),
        f"begun     {_when(info.begun_s)}",
        f"changed   {_when(info.changed_s)}",
    ]
    lines += _section("settings that are not the default", _changed_settings(info.settings))
    lines += _section("rows", _ledger_lines(info.ledger))
    lines += _section("checkpoints", [_checkpoint_line(c.path.name, c.problem) for c in info.checkpoints])
    lines += _section("next", _next_commands(info))
    print("\n".join(lines))
    return 0


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _changed_settings(settings: Mapping[str, Any]) -> list[str]:
    from tunesmith.config import Config

    defaults = Config()
    plain = {key: getattr(defaults, key, None) for key in settings}
    return [f"{key}: {_text(value)}" for key, value in settings.items() if _text(value) != _text(plain[key])]


def _text(value: Any) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


def _ledger_lines(ledger: Mapping[str, Any]) -> list[str]:
    lines = []
    for counts in ledger.get("files", ()):
        ended = ", ".join(f"{counts[f'num_{what}']:,} {what}" for what in ("whole", "cut", "dropped", "duplicates"))
        lines.append(f"{counts['file']} ({counts['use']}): {counts['num_rows']:,} rows in, {ended}")
    for use, totals in ledger.get("totals", {}).items():
        lines.append(f"{use}: {totals['num_tokens']:,} tokens, {totals['num_trained_tokens']:,} of them trained")
    return lines


def _checkpoint_line(name: str, problem: str) -> str:
    return f"{name}  torn, will be skipped: {problem}" if problem else f"{name}  complete"


def _next_commands(info: RunInfo) -> list[str]:
    """Lines to paste: continue what has not ended, talk to and export what has weights."""
    from tunesmith.runs.directory import SETTINGS_FILE

    if not info.settings:
        return []
    file = shlex.quote(str(info.path / SETTINGS_FILE))
    if info.status == "finished":
        merged = shlex.quote(str(info.path / "merged"))
        return [f"tunesmith chat {file}", f"tunesmith export {file} export_dir={merged}"]
    # A file that asks for a fresh start would throw away what there is to continue.
    change = " overwrite_output_dir=false" if info.settings.get("overwrite_output_dir") else ""
    return [f"tunesmith train {file}{change}      # continues from the newest complete checkpoint"]


def _steps(info: RunInfo) -> str:
    return "-" if info.num_steps is None else f"{info.num_steps}/{info.total_steps}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _when(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
