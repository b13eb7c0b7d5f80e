"""What a dataset_info.json entry may say, as types, with every key checked.

The vocabulary is LLaMA-Factory's. Two things differ: an unknown key is an error that names the nearest
known one (there it is ignored, so that a misspelled `columns` silently means the defaults), and where a
partly-given table switches something off that the rows have, that is said (see `formats/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from tunesmith.data.rows import type_name
from tunesmith.errors import DataError, did_you_mean


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a row holds what; None: this part is not read."""

    prompt: str | None = None
    query: str | None = None
    response: str | None = None
    history: str | None = None
    messages: str | None = None
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    kto_tag: str | None = None


@dataclass(frozen=True, slots=True)
class Tags:
    """How a message names its speaker and its text; None: this role is not recognised."""

    role_tag: str | None = None
    content_tag: str | None = None
    user_tag: str | None = None
    assistant_tag: str | None = None
    observation_tag: str | None = None
    function_tag: str | None = None
    system_tag: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns and tags of a format where the registry does not give them."""

    columns: Columns
    tags: Tags = field(default_factory=Tags)


_HUB_KEYS = ("hf_hub_url", "ms_hub_url", "om_hub_url")
_OTHER_KEYS = ("script_url", "cloud_file_name", "file_name", "formatting", "ranking", "subset", "split", "folder")
ENTRY_KEYS = (*_HUB_KEYS, *_OTHER_KEYS, "num_samples", "columns", "tags")


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One dataset: its source, its format, and how its rows are laid out.

    `columns_given` and `tags_given` hold the names written in the registry (None: the table is absent,
    so the defaults apply); `where` is the registry file and entry, for messages.
    """

    name: str
    where: str = ""
    file_name: str | None = None
    formatting: str = "alpaca"
    ranking: bool = False
    num_samples: int | None = None
    columns: Columns = field(default_factory=Columns)
    tags: Tags = field(default_factory=Tags)
    columns_given: frozenset[str] | None = None
    tags_given: frozenset[str] | None = None
    remote_source: str = ""

    @property
    def holds_pairs(self) -> bool:
        """Whether the rows are pairs of a better and a worse answer."""
        return self.ranking or bool(self.columns.chosen or self.columns.rejected)


def parse_entry(name: str, raw: object, registry: str, defaults: Mapping[str, Layout]) -> DatasetEntry:
    """One registry entry as a `DatasetEntry`.

    Args:
        name: the dataset's name.
        raw: the JSON value of the entry.
        registry: the registry file, for messages.
        defaults: the known values of `formatting`, each with its default layout.
    Raises: DataError when a key is unknown, a value has the wrong type, or no source is given.
    """
    where = f"{registry}, {name}"
    if not isinstance(raw, Mapping):
        raise DataError(f"the entry is {type_name(raw)}, expected an object", where=where)
    _check_keys(raw, ENTRY_KEYS, where, "entry")
    formatting = _typed(raw, "formatting", str, where) or "alpaca"
    if formatting not in defaults:
        hint = did_you_mean(formatting, defaults)
        raise DataError(f"unknown formatting '{formatting}'", where=where, fix=f"{hint} Known: {', '.join(defaults)}.")
    default = defaults[formatting]
    num_samples = _typed(raw, "num_samples", int, where)
    if num_samples is not None and num_samples < 1:
        raise DataError(f"num_samples is {num_samples}", where=where, fix="give a count of at least 1, or remove it")
    column_names = _name_table(raw, "columns", Columns, where)
    tag_names = _name_table(raw, "tags", Tags, where)
    return DatasetEntry(
        name=name,
        where=where,
        file_name=_typed(raw, "file_name", str, where),
        formatting=formatting,
        ranking=bool(_typed(raw, "ranking", bool, where)),
        num_samples=num_samples,
        columns=default.columns if column_names is None else Columns(**column_names),
        tags=default.tags if tag_names is None else Tags(**tag_names),
        columns_given=None if column_names is None else frozenset(raw["columns"]),
        tags_given=None if tag_names is None else frozenset(raw["tags"]),
        remote_source=_remote_source(raw, where),
    )


def _check_keys(raw: Mapping[str, object], known: tuple[str, ...], where: str, what: str) -> None:
    for key in raw:
        if key not in known:
            hint = did_you_mean(key, known)
            raise DataError(
                f"unknown key '{key}' in the {what}", where=where, fix=f"{hint} Known: {', '.join(known)}.".strip()
            )


def _typed(raw: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = {str: "text", int: "a whole number", bool: "true or false"}[kind]
        raise DataError(f"'{key}' is {type_name(value)}, expected {expected}", where=where)
    return value


def _name_table(raw: Mapping[str, Any], key: str, kind: type, where: str) -> dict[str, str] | None:
    """The `columns` or `tags` table without its null values; None when it is absent."""
    table = raw.get(key)
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise DataError(f"'{key}' is {type_name(table)}, expected an object", where=where)
    _check_keys(table, tuple(item.name for item in fields(kind)), f"{where}.{key}", f"table '{key}'")
    return {name: text for name in table if (text := _typed(table, name, str, f"{where}.{key}")) is not None}


def _remote_source(raw: Mapping[str, Any], where: str) -> str:
    """`key: value` of a source that has to be fetched first, or an empty string for a local file.

    A remote source wins over `file_name`, as in the public tool.
    """
    for key in (*_HUB_KEYS, "script_url", "cloud_file_name"):
        if _typed(raw, key, str, where):
            return f"{key}: {raw[key]}"
    if not raw.get("file_name"):
        raise DataError("the entry names no source", where=where, fix='add "file_name": "your_rows.json"')
    for key in ("subset", "split", "folder"):
        if _typed(raw, key, str, where) not in (None, "train" if key == "split" else None):
            raise DataError(f"'{key}' belongs to a hub dataset; this one is a local file", where=where, fix="remove it")
    return ""
