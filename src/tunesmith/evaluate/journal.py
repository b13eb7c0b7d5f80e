"""Predictions on disk: one line per row as it is finished, so that a killed prediction goes on where it was.

`generated_predictions.jsonl` grows in the order in which answers come, and is put into the order of the rows at the
end, by an atomic rename. `predict_state.json` beside it names everything the answers depend on: a file whose rows came
from another model, other data or other settings is refused by name instead of being mixed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.config import Config
from tunesmith.errors import ResumeError
from tunesmith.train.predict import PREDICT_STATE as STATE
from tunesmith.train.predict import PREDICTIONS

ROW = "row"
"""The key of a line that holds the number of its row."""
_VERSION = 1


class Journal:
    """The lines of one prediction; `lines` maps the number of each finished row to its line.

    `notes`: what became of lines that were there and are not continued.
    """

    def __init__(self, stream: BinaryIO, file: Path, num_rows: int, lines: dict[int, dict[str, Any]]) -> None:
        self.file = file
        self.num_rows, self.lines, self.num_kept = num_rows, lines, len(lines)
        self.notes: list[str] = []
        self._stream = stream

    def append(self, line: Mapping[str, Any]) -> None:
        """Write the line of a row, which has none yet, and hand it to the operating system at once."""
        assert line[ROW] not in self.lines
        assert 0 <= line[ROW] < self.num_rows
        self._stream.write(_as_bytes(line))
        self.lines[line[ROW]] = dict(line)

    def finish(self) -> list[dict[str, Any]]:
        """Put the file into the order of the rows; returns its lines."""
        assert len(self.lines) == self.num_rows, "as many lines out as rows in"
        ordered = [self.lines[number] for number in range(self.num_rows)]
        _write(self.file, b"".join(map(_as_bytes, ordered)))
        self.close()
        return ordered

    def close(self) -> None:
        """Close the file and let other processes have it. Idempotent."""
        self._stream.close()


def journal_of(config: Config, identity: Mapping[str, str], num_rows: int) -> Journal:
    """The journal of `output_dir`, as `resume_from_checkpoint` and `overwrite_output_dir` say.

    Raises: ResumeError as `open_journal`.
    """
    return open_journal(
        Path(str(config.output_dir)),
        identity,
        num_rows,
        anew=config.resume_from_checkpoint is False,
        replace_other=config.overwrite_output_dir,
    )


def open_journal(
    folder: Path, identity: Mapping[str, str], num_rows: int, *, anew: bool = False, replace_other: bool = False
) -> Journal:
    """The journal of a folder, with the lines that an earlier, unfinished prediction left there.

    Args:
        identity: everything the answers depend on, by name.
        anew: forget what is there.
        replace_other: forget it where it came from something else, instead of refusing.
    Raises: ResumeError when what is there came from something else, or is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, state = folder / PREDICTIONS, folder / STATE
    now = {"version": _VERSION, "num_rows": num_rows, "identity": dict(identity)}
    stream = file.open("ab", buffering=0)
    try:
        _lock(stream, file)
        changes = _changes(state, now) if file.stat().st_size and not anew else []
        if changes and not replace_other:
            raise _other(file, changes)
        lines = {} if anew or changes else _read(file, num_rows)
        if not lines:
            stream.truncate(0)
            _write(state, (json.dumps(now, indent=2, ensure_ascii=False) + "\n").encode())
    except BaseException:
        stream.close()
        raise
    journal = Journal(stream, file, num_rows, lines)
    if changes:
        journal.notes.append(f"overwrite_output_dir: replacing predictions of something else ({'; '.join(changes)})")
    return journal


def _changes(state: Path, now: Mapping[str, Any]) -> list[str]:
    """What the lines that are there came from, where it is not what is asked for now; empty when it is."""
    try:
        before = json.loads(state.read_text(encoding="utf-8"))
        old, new = before["identity"], now["identity"]
        changes = [_change(name, old.get(name), new.get(name)) for name in {**old, **new}]
        changes.append(_change("number of rows", before["num_rows"], now["num_rows"]))
        changes.append(_change("version of this file", before["version"], now["version"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{STATE} is missing or unreadable, so nothing is known about them"]
    return [change for change in changes if change]


def _change(name: str, old: Any, new: Any) -> str:
    if old == new:
        return ""
    shown = [_short(value) for value in (old, new)]
    return f"{name}: {shown[0]}, now {shown[1]}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:16] + "..."


def _other(file: Path, changes: list[str]) -> ResumeError:
    return ResumeError(
        f"{file} holds predictions of something else",
        why="\n".join(changes),
        fix="choose another `output_dir`, or set `overwrite_output_dir: true` to replace them",
    )


def _read(file: Path, num_rows: int) -> dict[int, dict[str, Any]]:
    """The whole lines of a file; a half-written last one is cut off. Raises: ResumeError for any other damage."""
    data = file.read_bytes()
    lines: dict[int, dict[str, Any]] = {}
    end = 0
    for number, text in enumerate(data.splitlines(keepends=True), 1):
        line = _parsed(text, num_rows)
        if line is None and end + len(text) < len(data):
            raise ResumeError(
                f"{file}:{number} is damaged", fix="remove that line, or set `resume_from_checkpoint: false`"
            )
        if line is None:
            break
        lines[line[ROW]] = line
        end += len(text)
    if end < len(data):
        os.truncate(file, end)
    return lines


def _parsed(text: bytes, num_rows: int) -> dict[str, Any] | None:
    """A line of this file; None when it is not one, or not whole."""
    try:
        line = json.loads(text)
        is_whole = text.endswith(b"\n") and 0 <= line[ROW] < num_rows
    except (ValueError, KeyError, TypeError):
        return None
    return line if is_whole else None


def _lock(stream: BinaryIO, file: Path) -> None:
    """Raises: ResumeError when another process writes this file."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes at once are not noticed there
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ResumeError(
            f"another process is writing {file}", fix="wait until it is done, or choose another `output_dir`"
        ) from None


def _as_bytes(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _write(file: Path, data: bytes) -> None:
    part = file.with_name(file.name + ".part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, file)
