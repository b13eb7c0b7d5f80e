"""Reads what a run left in its folder: plain files, read as they are, whether the run ended well or not.

A folder is a run when it holds `run.yaml` (the effective settings) or `trainer_log.jsonl` (one line per logged step).
Readers never write there, so looking at a run that is still going is harmless; a last line that is half written is
skipped. Times come from the files themselves.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from tunesmith.errors import UserError
from tunesmith.model.checkpoints import checkpoint_step, checkpoints, why_torn

Status = Literal["finished", "running?", "stopped", "empty"]

SETTINGS_FILE = "run.yaml"
LOG_FILE = "trainer_log.jsonl"
STATE_FILE = "trainer_state.json"
LEDGER_FILE = "ledger_summary.json"
RUNNING_WITHIN_S = 120.0
MAX_DEPTH = 6


@dataclass(frozen=True)
class Checkpoint:
    """One `checkpoint-N` folder; `problem` says why it is not whole, and is empty when it is."""

    path: Path
    step: int
    problem: str


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run from its folder. Unknown numbers are None.

    Attributes:
        loss, eval_loss: the last logged ones.
        num_steps, total_steps: optimizer steps done and planned.
        begun_s, changed_s: seconds since the epoch: the settings' and the newest file's time.
        settings: effective settings, from run.yaml.
        ledger: the row totals, from ledger_summary.json.
    """

    path: Path
    status: Status
    num_steps: int | None
    total_steps: int | None
    loss: float | None
    eval_loss: float | None
    begun_s: float | None
    changed_s: float | None
    settings: Mapping[str, Any]
    ledger: Mapping[str, Any]
    checkpoints: tuple[Checkpoint, ...]


def is_run_folder(path: Path) -> bool:
    """Whether `path` holds a run."""
    return (path / SETTINGS_FILE).is_file() or (path / LOG_FILE).is_file()


def find_runs(root: Path) -> list[Path]:
    """Every run folder at or below `root` (at most 6 levels down), in the order of their names."""
    return sorted(_walk(root, MAX_DEPTH))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if is_run_folder(folder):
        yield folder
        return
    if depth == 0:
        return
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != "."]
    for name in names:
        yield from _walk(folder / name, depth - 1)


def read_run(path: Path) -> RunInfo:
    """Read one run folder. Raises: UserError when `path` is none."""
    if not is_run_folder(path):
        raise UserError(
            f"'{path}' is not a run folder",
            why=f"it holds neither {SETTINGS_FILE} nor {LOG_FILE}",
            fix="give the output_dir of a training; `tunesmith runs FOLDER` lists those below a folder.",
        )
    log = read_log(path / LOG_FILE)
    times = [file.stat().st_mtime for file in path.iterdir() if file.is_file()]
    settings = path / SETTINGS_FILE
    return RunInfo(
        path=path,
        status=_status(path, bool(log)),
        num_steps=_last(log, "current_steps"),
        total_steps=_last(log, "total_steps"),
        loss=_last(log, "loss"),
        eval_loss=_last(log, "eval_loss"),
        begun_s=settings.stat().st_mtime if settings.is_file() else None,
        changed_s=max(times) if times else None,
        settings=_read_settings(settings),
        ledger=_read_json(path / LEDGER_FILE),
        checkpoints=tuple(find_checkpoints(path)),
    )


def find_checkpoints(path: Path) -> list[Checkpoint]:
    """The checkpoints of a run, oldest step first. Sizes only: training compares the hashes before it resumes."""
    return [Checkpoint(folder, checkpoint_step(folder), why_torn(folder, hashes=False)) for folder in checkpoints(path)]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a trainer_log.jsonl; a line that is no JSON (half written) is skipped."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _status(path: Path, has_log: bool) -> Status:
    log, state = path / LOG_FILE, path / STATE_FILE
    if not has_log:
        return "empty"
    # A state older than the log belongs to an earlier training in the same folder.
    is_newer = state.is_file() and state.stat().st_mtime >= log.stat().st_mtime - 1.0
    if is_newer and _read_json(state).get("finished") is True:
        return "finished"
    return "running?" if time.time() - log.stat().st_mtime < RUNNING_WITHIN_S else "stopped"


def _last(rows: list[dict[str, Any]], key: str) -> Any:
    return next((row[key] for row in reversed(rows) if row.get(key) is not None), None)


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(
            f"{path} is not YAML any more", why=str(error), fix="restore the file, or move it away"
        ) from error
    return content if isinstance(content, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:  # still being written
        return {}
    return content if isinstance(content, dict) else {}
