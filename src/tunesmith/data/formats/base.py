"""What a dataset format is, and the checks that all formats share.

A format is four functions: recognise (is this the layout of these rows?), check (does the registered
layout fit the first rows?), convert (the turns of one row) and answer (an answer that has a column of its
own). `check` looks at a few hundred rows at once, because a wrong column or tag name spoils every row
alike and deserves one message, not 90,000. What the turns are for is decided in `data/kinds`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from tunesmith.data.rows import RowError, type_name
from tunesmith.data.schema import DatasetEntry, Layout
from tunesmith.errors import DataError, did_you_mean
from tunesmith.types import Conversation, Message

Fields = Mapping[str, Any]
Ending = Literal["answer", "question", "either"]
"""What the last turn of a row must be; "question": the answers stand in columns of their own."""


def text_answer(row: Fields, column: str, entry: DatasetEntry) -> Message:
    """The answer in a column of plain text. Raises: RowError when it is missing, empty or not text."""
    return Message("assistant", text_of(row, column, required=True))


@dataclass(frozen=True, slots=True)
class Format:
    """One dataset format.

    Attributes:
        layout: the columns and tags that apply where the registry does not give them.
        recognise: (name, first rows) -> an entry with the layout these rows have, or None.
        check: (entry, first rows) -> notes for the user. Raises: DataError when the layout cannot fit.
        convert: (fields of a row, entry, ending) -> its turns, the last of them an answer, a question, or either.
            Raises: RowError for a row that is not usable.
        answer: (fields of a row, column, entry) -> the answer in that column. Raises: RowError as `convert`.
    """

    layout: Layout
    recognise: Callable[[str, Sequence[Fields]], DatasetEntry | None]
    check: Callable[[DatasetEntry, Sequence[Fields]], list[str]]
    convert: Callable[[Fields, DatasetEntry, Ending], Conversation]
    answer: Callable[[Fields, str, DatasetEntry], Message] = text_answer


def text_of(row: Fields, column: str | None, *, required: bool = False) -> str:
    """The text of a column; "" when the column is not read, absent or null and not required.

    Raises: RowError when the value is not text, or is required and blank.
    """
    if column is None:
        return ""
    value = row.get(column)
    if value is None:
        value = ""
        if required:
            why = "is null" if column in row else "is missing"
            raise RowError(column, why, "give the row this field as text")
    if not isinstance(value, str):
        raise RowError(column, f"is {type_name(value)}, expected text", "write the value in double quotes")
    if required and not value.strip():
        raise RowError(column, "is empty", "fill it or remove the row")
    return value


def column_counts(rows: Sequence[Fields]) -> Counter[str]:
    """How many of the rows have each column with something in it."""
    empty: tuple[Any, ...] = (None, "", [], {})
    return Counter(name for row in rows for name, value in row.items() if value not in empty)


def columns_in(rows: Sequence[Fields]) -> list[str]:
    """The names of all columns of these rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def verdict_column(rows: Sequence[Fields]) -> str | None:
    """The column of true and false that unregistered rows give their answers, as it is usually called."""
    return next((name for name in ("label", "kto_tag") if any(isinstance(row.get(name), bool) for row in rows)), None)


def counted(counts: Counter[str], limit: int = 8) -> str:
    """`'human' (91x), 'gpt' (91x)`: names with their counts, most frequent first."""
    shown = ", ".join(f"'{name}' ({number}x)" for name, number in counts.most_common(limit))
    return shown + (", ..." if len(counts) > limit else "")


def require_column(entry: DatasetEntry, part: str, rows: Sequence[Fields]) -> str:
    """The column that holds a needed part, known to be in at least one row.

    Raises: DataError when the registry does not name it, or no row has it.
    """
    present = columns_in(rows)
    column = getattr(entry.columns, part)
    if column is None:
        raise DataError(
            f"the table 'columns' does not say which column holds the {part}",
            where=entry.where,
            why="once 'columns' is given, a part that it does not name is not read"
            if entry.columns_given is not None
            else f"no column is read as {part} by default",
            fix=f'add "{part}": "COLUMN"; the rows have: {", ".join(present)}',
        )
    if column not in present:
        known = "by default" if entry.columns_given is None else "in the registry"
        hint = did_you_mean(column, present)
        raise DataError(
            f"columns.{part} is '{column}' ({known}), but no row has such a column",
            where=entry.where,
            why=f"the rows have: {counted(column_counts(rows))}",
            fix=f'{hint} Correct "columns": {{"{part}": ...}}, or set "formatting" to the right format.'.strip(),
        )
    return column


def require_verdict_columns(entry: DatasetEntry, rows: Sequence[Fields]) -> None:
    """Raises: DataError when rows that are to be compared or labelled lack the columns that say so."""
    parts = ("chosen", "rejected") if entry.holds_pairs else ("kto_tag",) if entry.columns.kto_tag else ()
    for part in parts:
        require_column(entry, part, rows)


def check_given_columns(entry: DatasetEntry, rows: Sequence[Fields]) -> list[str]:
    """A note for every optional column that the registry names and none of these rows has.

    Raises: DataError when the rows have a column of a similar name: then it is a misspelling.
    """
    present = columns_in(rows)
    notes = []
    for part in sorted(entry.columns_given or ()):
        column = getattr(entry.columns, part)
        if column is None or column in present:
            continue
        if did_you_mean(column, present):
            require_column(entry, part, rows)
        notes.append(f"{entry.name}: none of the first {len(rows)} rows has the column '{column}' (columns.{part})")
    return notes


def notes_on_unread(entry: DatasetEntry, rows: Sequence[Fields], parts: Sequence[str]) -> list[str]:
    """A note for every part whose usual column the rows fill, but that the registry does not read."""
    counts = column_counts(rows)
    read = {getattr(entry.columns, item.name) for item in fields(entry.columns)}
    notes = []
    for part in parts:
        usual = _USUAL_COLUMNS[part]
        disabled = getattr(entry.columns, part) is None and part not in (entry.columns_given or ())
        if disabled and counts[usual] and usual not in read:
            reason = "'columns' does not name it" if entry.columns_given is not None else "it is read only when named"
            notes.append(
                f"{entry.name}: the column '{usual}' is filled in {counts[usual]} of the first {len(rows)} rows "
                f'and is not read: {reason}; add "{part}": "{usual}" to "columns" to use it'
            )
    return notes


_USUAL_COLUMNS = {
    "query": "input",
    "system": "system",
    "history": "history",
    "tools": "tools",
    "images": "images",
    "videos": "videos",
    "audios": "audios",
}


def check_turns(messages: Sequence[Message], field: str, ending: Ending = "answer", first: int = 0) -> None:
    """Check the order of turns: user or tool first, then an assistant, and so on, with the right one last.

    Tool results that follow each other count as one turn. `first` is the place of the first turn in the field.
    Raises: RowError naming the first turn that is out of place.
    """
    if not messages:
        raise RowError(field, "holds no turns", "remove the row")
    assistant_next = False
    previous = "nothing"
    for index, message in enumerate(messages, start=first):
        if message.role == "system":
            raise RowError(f"{field}[{index}]", "is a second system turn", "join it with the first")
        is_repeated_tool = message.role == "tool" and previous == "tool"
        if not is_repeated_tool and (message.role == "assistant") != assistant_next:
            expected = "assistant" if assistant_next else "user"
            why = f"is a turn of the {message.role} after {previous}, where the {expected}'s is expected"
            raise RowError(f"{field}[{index}]", why, "user and assistant turns must alternate")
        assistant_next = message.role != "assistant"
        previous = message.role
    last = f"{field}[{first + len(messages) - 1}]"
    if assistant_next and ending == "answer":
        raise RowError(last, "is the last turn, so no answer follows", "add the answer")
    if not assistant_next and ending == "question":
        raise RowError(last, "is an answer, but the answers of the row stand in columns of their own", "remove it")
    _check_not_empty(messages, field, first)


def _check_not_empty(messages: Sequence[Message], field: str, first: int) -> None:
    for index, message in enumerate(messages, start=first):
        says_nothing = not message.content.strip() and not message.tool_calls
        if says_nothing and message.role in ("user", "assistant"):
            raise RowError(f"{field}[{index}]", f"is an empty turn of the {message.role}", "fill it or remove the row")
