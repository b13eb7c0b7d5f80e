"""Reads JSON and JSON Lines row by row, each with the line it begins on.

Written by hand for one reason: an Arrow-based loader forces one type per column and reports a mistake
as an offset or not at all. Here types may differ from row to row, a broken row is reported with its
file, line and column, and reading goes on behind it. Three layouts are told apart by their content,
whatever the file is called:

- JSON Lines: one object per line, one line in memory at a time;
- an array of objects, or objects one after the other over several lines: one text in memory, decoded
  element by element with the standard library's C scanner, lines counted on the way (no second pass).

After a broken element of an array, reading continues at the next `{` that decodes to an object with the
keys of a row. A file that ends inside an array is refused: nobody knows how many rows are missing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.rows import BadRow, Row, RowStream, short, type_name
from tunesmith.data.textfile import iter_lines, read_text
from tunesmith.errors import DataError
from tunesmith.types import RowRef

_decode = json.JSONDecoder().raw_decode
_NEXT_OBJECT = re.compile(r"[,\n\]}]\s*(?=\{)")
_SPACE = re.compile(r"[ \t\r\n]*")
# Keys that mark an object as a row when no row before it could be read.
_ROW_KEYS = frozenset(
    {"instruction", "conversations", "messages", "prompt", "text", "question", "output", "query"}
    | {"chosen", "rejected", "completion"}
)


def read_json(path: Path, dataset: str, shown: str) -> RowStream:
    """The rows of a .json or .jsonl file.

    Args:
        path: the file.
        dataset: the dataset's name, for `RowRef`.
        shown: the file's name as messages show it.
    Raises: DataError when the file holds no rows at all, is not UTF-8, or ends inside its array.
    """
    first, is_only_line = _first_line(path)
    if first.startswith("["):
        return _read_values(read_text(path), dataset, shown)
    if not is_only_line and (_is_json(first) or not first.startswith("{")):
        return _read_lines(path, dataset, shown)
    text = read_text(path)
    if _starts_with_value(text):
        return _read_values(text, dataset, shown)
    return _read_lines(path, dataset, shown)


def _first_line(path: Path) -> tuple[str, bool]:
    """The first line that is not blank, and whether there is no other."""
    filled = (line.strip() for _, line in iter_lines(path) if line.strip())
    first = next(filled, None)
    if first is None:
        raise DataError("the data file holds no rows", where=str(path), fix="check how it was written")
    return first, next(filled, None) is None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _starts_with_value(text: str) -> bool:
    try:
        _decode(text, _skip_space(text, 0))
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _read_lines(path: Path, dataset: str, shown: str) -> RowStream:
    index = 0
    for line, text in iter_lines(path):
        if not text.strip():
            continue
        ref = RowRef(dataset, shown, line, index)
        index += 1
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            yield BadRow(ref, "", *_what_is_broken(text, error, line))
        except RecursionError:
            yield BadRow(ref, "", "the line is nested too deeply to be a row", "write it anew")
        else:
            yield _row_or_bad(ref, value)


def _row_or_bad(ref: RowRef, value: Any) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(ref, value)
    return BadRow(ref, "", f"the row is {type_name(value)}, expected an object", 'write it as {"column": value, ...}')


def _what_is_broken(text: str, error: json.JSONDecodeError, line: int | None = None) -> tuple[str, str]:
    """Why and fix for one decoding error; `line` overrides the error's own line number."""
    around = short(text[max(0, error.pos - 25) : error.pos + 25], 60)
    place = f"line {line if line is not None else error.lineno}, column {error.colno}"
    why = f"broken JSON at {place}: {error.msg[0].lower()}{error.msg[1:]}, near `{around}`"
    return why, _REMEDIES.get(error.msg, "correct the row or write the file anew with a JSON library")


_REMEDIES = {
    "Unterminated string starting at": 'close the quotes; a quote inside text is written \\", a line break \\n',
    "Invalid control character at": "write a line break inside text as \\n and a tab as \\t",
    "Expecting ',' delimiter": 'add the comma, or write a quote inside text as \\"',
    "Expecting property name enclosed in double quotes": "use double quotes, and no comma before a closing brace",
    "Illegal trailing comma before end of object": "remove the comma before the closing brace",
    "Expecting ':' delimiter": 'write each field as "name": value',
    "Invalid \\escape": "write a backslash inside text as \\\\",
    "Expecting value": "write text in double quotes; only true, false, null and numbers stand without them",
}


@dataclass
class _Cursor:
    """Where reading stands in a text, and what rows look like there."""

    text: str
    dataset: str
    shown: str
    position: int = 0
    line: int = 1
    index: int = 0
    row_keys: set[str] = field(default_factory=set)

    def advance(self, position: int) -> None:
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def skip_space(self) -> None:
        self.advance(_skip_space(self.text, self.position))

    @property
    def character(self) -> str:
        return self.text[self.position : self.position + 1]

    def next_ref(self) -> RowRef:
        ref = RowRef(self.dataset, self.shown, self.line, self.index)
        self.index += 1
        return ref


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _read_values(text: str, dataset: str, shown: str) -> RowStream:
    """Rows of an array, or of values that follow each other."""
    cursor = _Cursor(text, dataset, shown)
    cursor.skip_space()
    in_array = cursor.character == "["
    if in_array:
        cursor.advance(cursor.position + 1)
    while True:
        cursor.skip_space()
        if in_array and cursor.character == "]":
            _check_nothing_follows(cursor)
            return
        if not cursor.character:
            if in_array:
                raise _truncated(cursor, cursor.line)
            return
        yield _next_value(cursor, in_array)
        cursor.skip_space()
        if cursor.character == ",":
            cursor.advance(cursor.position + 1)


def _next_value(cursor: _Cursor, in_array: bool) -> Row | BadRow:
    start_line = cursor.line
    ref = cursor.next_ref()
    try:
        value, end = _decode(cursor.text, cursor.position)
    except (json.JSONDecodeError, RecursionError) as error:
        return _skip_broken(cursor, ref, error, in_array)
    if not in_array and isinstance(value, dict):
        _check_not_wrapped(cursor, value, end)
    cursor.advance(end)
    if isinstance(value, dict):
        cursor.row_keys.update(value)
    assert start_line == ref.line
    return _row_or_bad(ref, value)


def _skip_broken(cursor: _Cursor, ref: RowRef, error: Exception, in_array: bool) -> BadRow:
    """Report the broken element and move to the row behind it, or to the end of the array."""
    if isinstance(error, json.JSONDecodeError):
        why, fix = _what_is_broken(cursor.text, error)
        error_position = error.pos
    else:
        why, fix, error_position = "the row is nested too deeply", "write it anew", cursor.position
    resume_at = _find_next_row(cursor)
    if resume_at is None:
        closing = cursor.text.rstrip()
        if in_array and (not closing.endswith("]") or error_position >= len(closing)):
            raise _truncated(cursor, ref.line)
        resume_at = len(closing) - 1 if in_array else len(cursor.text)
    cursor.advance(resume_at)
    return BadRow(ref, "", why, fix)


def _find_next_row(cursor: _Cursor) -> int | None:
    """The position of the next object that decodes and has the keys of a row."""
    column = _column(cursor.text, cursor.position)
    for match in _NEXT_OBJECT.finditer(cursor.text, cursor.position + 1):
        start = match.end()
        try:
            value, _ = _decode(cursor.text, start)
        except (json.JSONDecodeError, RecursionError):
            continue
        keys = cursor.row_keys or _ROW_KEYS
        if not keys.isdisjoint(value) or (not cursor.row_keys and column == _column(cursor.text, start)):
            return start
    return None


def _column(text: str, position: int) -> int:
    return position - text.rfind("\n", 0, position)


def _truncated(cursor: _Cursor, line: int) -> DataError:
    return DataError(
        f"the file ends in the middle of its array: row {cursor.index} is the last one begun",
        where=f"{cursor.shown}:{line}",
        why=f"the text stops at `{short(cursor.text.rstrip()[-40:])}`; how many rows are missing is unknown",
        fix="download or write the file again; if it is all there, close the row and add the final ]",
    )


def _check_nothing_follows(cursor: _Cursor) -> None:
    """Raises: DataError when text stands behind the array, whose rows would be lost."""
    cursor.advance(cursor.position + 1)
    cursor.skip_space()
    if cursor.character:
        raise DataError(
            "text follows the end of the array",
            where=f"{cursor.shown}:{cursor.line}",
            why=f"it begins with `{short(cursor.text[cursor.position : cursor.position + 40])}`",
            fix="write one array, or one object per line (.jsonl)",
        )


def _check_not_wrapped(cursor: _Cursor, value: dict[str, Any], end: int) -> None:
    """Raises: DataError when the file is one object that holds the rows under a key."""
    if cursor.index > 1 or _skip_space(cursor.text, end) < len(cursor.text):
        return
    for key, inner in value.items():
        if key not in _ROW_KEYS and isinstance(inner, list) and len(inner) > 1 and isinstance(inner[0], dict):
            raise DataError(
                f"the file is one object; its rows seem to be the {len(inner)} elements of '{key}'",
                where=f"{cursor.shown}:{cursor.line}",
                fix=f"write out that list alone, for example: jq -c '.{key}[]' {cursor.shown} > rows.jsonl",
            )
