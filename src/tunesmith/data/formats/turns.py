"""Rows whose turns are messages: what the formats sharegpt and openai share.

The turns stand in one column, `messages`. An answer may have a column of its own (`response`, `chosen`, `rejected`), as
one message, a list of one, or text. A pair may also be two whole conversations that part at their last turn; then no
`messages` column is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.data.formats.base import (
    Ending,
    Fields,
    check_turns,
    column_counts,
    require_column,
    require_verdict_columns,
    text_of,
    verdict_column,
)
from tunesmith.data.rows import RowError, type_name
from tunesmith.data.schema import Columns, DatasetEntry, Tags
from tunesmith.types import Message

ReadMessage = Callable[[Any, Tags, str], Message]
"""(message as it stands in the row, tags, its field) -> message. Raises: RowError when it is not usable."""
_MESSAGE_COLUMNS = ("messages", "conversations", "conversation", "prompt")
_ANSWER_COLUMNS = ("completion", "response")


def read_turns(row: Fields, entry: DatasetEntry, ending: Ending, read: ReadMessage) -> list[Message]:
    """The turns of one row in order, an optional system turn first. Raises: RowError when they are not usable."""
    column = entry.columns.messages
    if column is None:
        return _shared_turns(row, entry, read)
    messages = _messages(row, column, entry.tags, read)
    system, turns = _without_system(messages)
    first = len(messages) - len(turns)
    response = entry.columns.response
    if response is not None and (ending == "answer" or (ending == "either" and row.get(response))):
        check_turns(turns, column, "question", first)
        turns.append(read_answer(row, response, entry, read))
    else:
        check_turns(turns, column, ending, first)
    text = text_of(row, entry.columns.system)
    if not system and text:
        system = [Message("system", text)]
    return [*system, *turns]


def read_answer(row: Fields, column: str, entry: DatasetEntry, read: ReadMessage) -> Message:
    """The answer in a column of its own. Raises: RowError when there is none, or another's turn stands there."""
    value, field = row.get(column), column
    if value is None:
        why = "is null" if column in row else "is missing"
        raise RowError(column, why, "give the row its answer")
    if isinstance(value, list):
        if len(value) != 1 and (entry.columns.messages is not None or not value):
            raise RowError(column, f"holds {len(value)} messages, expected one answer", "keep the answer alone")
        value, field = value[-1], f"{column}[{len(value) - 1}]"
    answer = Message("assistant", value) if isinstance(value, str) else read(value, entry.tags, field)
    if answer.role != "assistant":
        raise RowError(field, f"is a turn of the {answer.role}, expected the assistant's", "name its speaker rightly")
    if not answer.content.strip() and not answer.tool_calls:
        raise RowError(field, "is empty", "fill it or remove the row")
    return answer


def require_turns(entry: DatasetEntry, rows: Sequence[Fields]) -> list[Mapping[str, Any]]:
    """All messages of these rows, the answers of pairs included.

    Raises: DataError when a column that is needed is not named, or in no row.
    """
    if entry.columns.messages is not None or not entry.holds_pairs:
        require_column(entry, "messages", rows)
    require_verdict_columns(entry, rows)
    columns = (entry.columns.messages, entry.columns.response, entry.columns.chosen, entry.columns.rejected)
    return [message for row in rows for column in columns if column for message in messages_in(row, column)]


def messages_in(row: Fields, column: str) -> list[Mapping[str, Any]]:
    """The objects in a column that holds a message or a list of them; [] when it holds anything else."""
    value = row.get(column)
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, Mapping)]


def possible_columns(rows: Sequence[Fields]) -> list[Columns]:
    """The ways in which the columns of unregistered rows could hold turns, the likeliest first."""
    counts = column_counts(rows)
    optional = {name: name for name in ("system", "tools") if counts[name]}
    holders = [name for name in _MESSAGE_COLUMNS if _holds_messages(rows, name, at_least=1)]
    if counts["chosen"] and counts["rejected"]:
        pair = {"chosen": "chosen", "rejected": "rejected", **optional}
        whole = [Columns(**pair)] if _holds_messages(rows, "chosen", at_least=2) else []
        return whole + [Columns(messages=name, **pair) for name in holders]
    answer = next((name for name in _ANSWER_COLUMNS if _holds_messages(rows, name, at_least=1)), None)
    verdict = verdict_column(rows)
    return [Columns(messages=name, response=answer, kto_tag=verdict, **optional) for name in holders]


def _holds_messages(rows: Sequence[Fields], column: str, at_least: int) -> bool:
    """Whether some row has a list of so many messages in this column."""
    return any(isinstance(row.get(column), list) and len(messages_in(row, column)) >= at_least for row in rows)


def _messages(row: Fields, column: str, tags: Tags, read: ReadMessage) -> list[Message]:
    raw = row.get(column)
    if not isinstance(raw, list):
        why = "is missing" if column not in row else f"is {type_name(raw)}, expected a list of messages"
        raise RowError(column, why, "give the row its list of messages")
    return [read(item, tags, f"{column}[{index}]") for index, item in enumerate(raw)]


def _without_system(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    num_system = 1 if messages and messages[0].role == "system" else 0
    return messages[:num_system], messages[num_system:]


def _shared_turns(row: Fields, entry: DatasetEntry, read: ReadMessage) -> list[Message]:
    """What comes before the last turn of two conversations, which must be the same in both."""
    sides = []
    for column in (str(entry.columns.chosen), str(entry.columns.rejected)):
        messages = _messages(row, column, entry.tags, read)
        _, turns = _without_system(messages)
        check_turns(turns, column, "answer", len(messages) - len(turns))
        sides.append(messages[:-1])
    better, worse = sides
    if better != worse:
        pairs = zip(better, worse, strict=False)
        parting = next((index for index, (one, other) in enumerate(pairs) if one != other), min(map(len, sides)))
        raise RowError(
            f"{entry.columns.rejected}[{parting}]",
            f"is not `{entry.columns.chosen}[{parting}]`, though another turn follows",
            "the two conversations of a pair may differ in their last turn only",
        )
    text = text_of(row, entry.columns.system)
    has_system = bool(better) and better[0].role == "system"
    return better if has_system or not text else [Message("system", text), *better]
