"""ShareGPT rows: a list of messages, each naming its speaker and its text by configurable tags.

The usual tags are from/value with human, gpt, observation, function_call and system; data in the style
of role/content are read by naming those tags. Rules of a row: an optional system message first, then
human (or observation) and gpt (or function_call) in turn, ending with gpt.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from tunesmith.data.formats.base import (
    Ending,
    Fields,
    Format,
    check_given_columns,
    counted,
    notes_on_unread,
    text_of,
)
from tunesmith.data.formats.tools import parse_calls, parse_tools
from tunesmith.data.formats.turns import possible_columns, read_answer, read_turns, require_turns
from tunesmith.data.rows import RowError, type_name
from tunesmith.data.schema import Columns, DatasetEntry, Layout, Tags
from tunesmith.errors import DataError
from tunesmith.types import Conversation, Message

LAYOUT = Layout(
    Columns(messages="conversations"),
    Tags("from", "value", "human", "gpt", "observation", "function_call", "system"),
)
# Speakers as they are named in files that are not registered anywhere.
_USER_NAMES = ("human", "user")
_ASSISTANT_NAMES = ("gpt", "assistant", "chatgpt", "bard", "bing")


def recognise(name: str, rows: Sequence[Fields]) -> DatasetEntry | None:
    """An entry for rows whose `conversations` (or `messages`) hold from/value or role/content messages."""
    for columns in possible_columns(rows):
        entry = DatasetEntry(name=name, where=name, formatting="sharegpt", columns=columns)
        tags = _tags_of(require_turns(entry, rows))
        if tags is not None:
            return replace(entry, tags=tags)
    return None


def _tags_of(messages: Sequence[Mapping[str, Any]]) -> Tags | None:
    for role_tag, content_tag in (("from", "value"), ("role", "content")):
        roles = Counter(message.get(role_tag) for message in messages if content_tag in message)
        user = next((name for name in _USER_NAMES if roles[name]), None)
        assistant = next((name for name in _ASSISTANT_NAMES if roles[name]), None)
        if user and assistant:
            return replace(
                LAYOUT.tags, role_tag=role_tag, content_tag=content_tag, user_tag=user, assistant_tag=assistant
            )
    return None


def check(entry: DatasetEntry, rows: Sequence[Fields]) -> list[str]:
    """Notes on what is not read. Raises: DataError when the columns or tags do not fit these rows."""
    messages = require_turns(entry, rows)
    absent = check_given_columns(entry, rows)
    check_tags(entry, messages)
    return absent + notes_on_unread(entry, rows, ("system", "tools", "images", "videos", "audios"))


def check_tags(entry: DatasetEntry, messages: Sequence[Mapping[str, Any]]) -> None:
    """Compare the tags with the messages as a whole.

    Raises: DataError when a message key or a speaker's name is not the one that the tags say.
    """
    if not messages:
        return
    tags = entry.tags
    _check_message_keys(entry, messages)
    roles = Counter(str(message.get(tags.role_tag or "")) for message in messages)
    known = {tags.user_tag, tags.assistant_tag, tags.observation_tag, tags.function_tag, tags.system_tag}
    unknown = Counter({role: number for role, number in roles.items() if role not in known})
    missing = [tag for tag in ("user_tag", "assistant_tag") if not roles[str(getattr(tags, tag))]]
    disabled = [role for role in unknown if role in _OPTIONAL_ROLES and getattr(tags, _OPTIONAL_ROLES[role]) is None]
    if missing and unknown:
        _raise_wrong_speakers(entry, missing, roles, unknown)
    if disabled:
        given = {_OPTIONAL_ROLES[role]: role for role in disabled}
        raise DataError(
            f"the rows hold turns of {counted(Counter({role: unknown[role] for role in disabled}))}, "
            f"which no tag names",
            where=f"{entry.where}, tags",
            why="once 'tags' is given, a role that it does not name is not recognised",
            fix=f'add to "tags": {json.dumps(given)[1:-1]}',
        )


_OPTIONAL_ROLES = {
    "system": "system_tag",
    "observation": "observation_tag",
    "tool": "observation_tag",
    "function_call": "function_tag",
    "function": "function_tag",
}


def _check_message_keys(entry: DatasetEntry, messages: Sequence[Mapping[str, Any]]) -> None:
    keys = Counter(key for message in messages for key in message)
    for tag in ("role_tag", "content_tag"):
        name = getattr(entry.tags, tag)
        if name is not None and keys[name]:
            continue
        proposal = _tags_of(messages)
        given = f"'{name}'" if name else "not given"
        raise DataError(
            f"tags.{tag} is {given}, but the keys of the messages are {counted(keys)}",
            where=f"{entry.where}, tags",
            fix=_set_tags(proposal) if proposal else f"set {tag} to one of these keys",
        )


def _raise_wrong_speakers(
    entry: DatasetEntry, missing: Sequence[str], roles: Counter[str], unknown: Counter[str]
) -> None:
    tags = entry.tags
    given = " and ".join(f"tags.{tag} is '{getattr(tags, tag)}'" for tag in missing)
    user = next((name for name in (*_USER_NAMES, tags.user_tag) if name and roles[name]), None)
    assistant = next((name for name in (*_ASSISTANT_NAMES, tags.assistant_tag) if name and roles[name]), None)
    fix = f"set user_tag and assistant_tag to the two of {', '.join(map(repr, unknown))} that they are"
    if user and assistant:
        fix = _set_tags(replace(tags, user_tag=user, assistant_tag=assistant))
    raise DataError(
        f"{given}, but the rows' '{tags.role_tag}' values are {counted(roles)}",
        where=f"{entry.where}, tags",
        why="no turn would be recognised, so nothing would be trained on",
        fix=fix,
    )


def _set_tags(tags: Tags) -> str:
    table = {item.name: getattr(tags, item.name) for item in fields(tags)[:4]}
    return f'set "tags": {json.dumps(table, ensure_ascii=False)}'


def convert(row: Fields, entry: DatasetEntry, ending: Ending = "answer") -> Conversation:
    """The turns of one sharegpt row. Raises: RowError when a message is unusable or out of place."""
    turns = read_turns(row, entry, ending, _message)
    if turns[0].role == "system" and not turns[0].content:
        turns = turns[1:]  # an empty system text is none
    return Conversation(tuple(turns), parse_tools(row, entry.columns.tools))


def answer(row: Fields, column: str, entry: DatasetEntry) -> Message:
    """The answer in a column of its own. Raises: RowError when there is none."""
    return read_answer(row, column, entry, _message)


def _message(raw: Any, tags: Tags, field: str) -> Message:
    if not isinstance(raw, Mapping):
        raise RowError(field, f"is {type_name(raw)}, expected a message", "write it as an object")
    role = raw.get(tags.role_tag or "")
    text = text_of(raw, tags.content_tag)
    if role == tags.function_tag and role is not None:
        return Message("assistant", "", tool_calls=parse_calls(text, f"{field}.{tags.content_tag}"))
    if role == tags.user_tag:
        return Message("user", text)
    if role == tags.assistant_tag:
        return Message("assistant", text)
    if role is not None and role == tags.observation_tag:
        return Message("tool", text)
    if role is not None and role == tags.system_tag:
        return Message("system", text)
    names = [tags.user_tag, tags.assistant_tag, tags.observation_tag, tags.function_tag, tags.system_tag]
    known = ", ".join(f"'{name}'" for name in names if name)
    raise RowError(f"{field}.{tags.role_tag}", f"is {role!r}, which is no known speaker", f"known: {known}")


FORMAT = Format(LAYOUT, recognise, check, convert, answer)
