"""Alpaca rows: instruction, input, output, with an optional system text and history of earlier turns.

The user's turn is the prompt, a line break, and the query; an empty part is left out with its line break.
`history` is a list of [question, answer] pairs that come before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.data.formats.base import (
    Ending,
    Fields,
    Format,
    check_given_columns,
    column_counts,
    notes_on_unread,
    require_column,
    require_verdict_columns,
    text_of,
    verdict_column,
)
from tunesmith.data.formats.tools import parse_tools
from tunesmith.data.rows import RowError, type_name
from tunesmith.data.schema import Columns, DatasetEntry, Layout
from tunesmith.types import Conversation, Message

# (prompt, query) and the answers that may stand beside them, as they are named in files that are not registered.
_KNOWN_LAYOUTS = (
    ("instruction", "input", ("output", "response")),
    ("instruction", "context", ("response",)),
    ("prompt", None, ("response", "completion")),
    ("question", None, ("answer",)),
    ("query", None, ("response",)),
    ("input", None, ("output",)),
)


def recognise(name: str, rows: Sequence[Fields]) -> DatasetEntry | None:
    """An entry for rows that have a question and an answer (or a pair of them) in columns of a known name."""
    counts = column_counts(rows)
    pairs = ("chosen", "rejected") if counts["chosen"] and counts["rejected"] else ()
    for prompt, query, responses in _KNOWN_LAYOUTS:
        answers = pairs or tuple(name for name in responses if counts[name])[:1]
        if not counts[prompt] or not answers or not _are_texts(rows[:5], (prompt, *answers)):
            continue
        optional = {part: part for part in ("history", "system", "tools") if counts[part]}
        if query and counts[query]:
            optional["query"] = query
        if pairs:
            columns = Columns(prompt=prompt, chosen="chosen", rejected="rejected", **optional)
        else:
            columns = Columns(prompt=prompt, response=answers[0], kto_tag=verdict_column(rows), **optional)
        return DatasetEntry(name=name, where=name, formatting="alpaca", columns=columns)
    return None


def _are_texts(rows: Sequence[Fields], columns: Sequence[str]) -> bool:
    return all(isinstance(row.get(column), str | None) for row in rows for column in columns)


def check(entry: DatasetEntry, rows: Sequence[Fields]) -> list[str]:
    """Notes on columns that are not read. Raises: DataError when a named column is in no row."""
    require_column(entry, "prompt", rows)
    require_verdict_columns(entry, rows)
    if entry.columns.response is not None and not entry.holds_pairs:
        require_column(entry, "response", rows)
    absent = check_given_columns(entry, rows)
    return absent + notes_on_unread(entry, rows, ("query", "system", "history", "tools", "images", "videos", "audios"))


def convert(row: Fields, entry: DatasetEntry, ending: Ending = "answer") -> Conversation:
    """The turns of one alpaca row. Raises: RowError when a field is missing, empty or not text."""
    columns = entry.columns
    question = question_of(row, entry)
    if not question.strip():
        raise RowError(columns.prompt or "", "is empty, and there is no other prompt", "fill it or remove the row")
    answer = ""
    if ending != "question":
        answer = text_of(row, columns.response, required=ending == "answer")
    system = text_of(row, columns.system)
    messages = [Message("system", system)] if system else []
    messages += [*_history(row, columns.history), Message("user", question)]
    if answer:
        messages.append(Message("assistant", answer))
    return Conversation(tuple(messages), parse_tools(row, columns.tools))


def question_of(row: Fields, entry: DatasetEntry) -> str:
    """Prompt and query with a line break between them. Raises: RowError when one is not text."""
    parts = (text_of(row, entry.columns.prompt), text_of(row, entry.columns.query))
    return "\n".join(part for part in parts if part)


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
