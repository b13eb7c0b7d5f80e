"""Alpaca rows: instruction, input, output, with an optional system text and history of earlier turns.

The user's turn is the prompt, a line break, and the query; an empty part is left out with its line break.
`history` is a list of [question, answer] pairs that come before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.data.formats.base import (
    Fields,
    Format,
    check_given_columns,
    column_counts,
    notes_on_unread,
    require_column,
    text_of,
)
from tunesmith.data.formats.tools import parse_tools
from tunesmith.data.rows import RowError, type_name
from tunesmith.data.schema import Columns, DatasetEntry, Layout
from tunesmith.errors import DataError
from tunesmith.types import Conversation, Message

# (prompt, query, response) as they are named in files that are not registered anywhere.
_KNOWN_LAYOUTS = (
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("prompt", None, "response"),
    ("prompt", None, "completion"),
    ("question", None, "answer"),
    ("query", None, "response"),
    ("input", None, "output"),
)


def recognise(name: str, rows: Sequence[Fields]) -> DatasetEntry | None:
    """An entry for rows that have a question and an answer column of a known name."""
    counts = column_counts(rows)
    for prompt, query, response in _KNOWN_LAYOUTS:
        has_both = counts[prompt] > 0 and counts[response] > 0
        if not has_both or any(not isinstance(row.get(response), str | None) for row in rows[:5]):
            continue
        columns = Columns(
            prompt=prompt,
            query=query if query and counts[query] else None,
            response=response,
            history="history" if counts["history"] else None,
            system="system" if counts["system"] else None,
            tools="tools" if counts["tools"] else None,
        )
        return DatasetEntry(name=name, where=name, formatting="alpaca", columns=columns)
    return None


def check(entry: DatasetEntry, rows: Sequence[Fields]) -> list[str]:
    """Notes on columns that are not read. Raises: DataError when a named column is in no row."""
    require_column(entry, "prompt", rows)
    if entry.columns_given == {"prompt"}:
        raise DataError(
            "the registry names only a prompt column, so the rows are plain documents without answers",
            where=entry.where,
            why="once 'columns' is given, a part that it does not name is not read",
            fix='they fit `stage: pt`; for questions and answers add "response": "COLUMN" to "columns"',
        )
    require_column(entry, "response", rows)
    absent = check_given_columns(entry, rows)
    return absent + notes_on_unread(entry, rows, ("query", "system", "history", "tools", "images", "videos", "audios"))


def convert(row: Fields, entry: DatasetEntry) -> Conversation:
    """One alpaca row as a conversation. Raises: RowError when a field is missing, empty or not text."""
    columns = entry.columns
    prompt = text_of(row, columns.prompt)
    query = text_of(row, columns.query)
    question = "\n".join(part for part in (prompt, query) if part)
    if not question.strip():
        raise RowError(columns.prompt or "", "is empty, and there is no other prompt", "fill it or remove the row")
    answer = text_of(row, columns.response, required=True)
    system = text_of(row, columns.system)
    messages = [Message("system", system)] if system else []
    messages += _history(row, columns.history)
    messages += [Message("user", question), Message("assistant", answer)]
    return Conversation(tuple(messages), parse_tools(row, columns.tools))


def _history(row: Fields, column: str | None) -> list[Message]:
    pairs: Any = row.get(column) if column else None
    if not pairs:
        return []
    if not isinstance(pairs, list):
        raise RowError(str(column), f"is {type_name(pairs)}, expected a list of [question, answer] pairs")
    messages = []
    for index, pair in enumerate(pairs):
        field = f"{column}[{index}]"
        is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise RowError(field, "is not a pair of texts", "write it as [question, answer]")
        if not all(text.strip() for text in pair):
            raise RowError(field, "has an empty question or answer", "fill it or remove the pair")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages


LAYOUT = Layout(Columns(prompt="instruction", query="input", response="output"))
FORMAT = Format(LAYOUT, recognise, check, convert)
