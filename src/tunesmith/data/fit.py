"""Which stage a dataset fits: what its layout holds, against the kind of rows that the stage learns from.

A dataset that does not fit is refused before any row is converted, with the stage that it fits, or with the columns
that its entry should name where the rows have them. The public tool drops such rows one by one, or trains on half of
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.data.formats import FORMATS
from tunesmith.data.formats.base import Format, column_counts, columns_in, counted
from tunesmith.data.kinds import KINDS, KindName
from tunesmith.data.schema import Columns, DatasetEntry
from tunesmith.errors import DataError

_TEXT_COLUMNS = ("text", "content")
_PROMPT_COLUMNS = ("prompt", "question", "instruction", "query", "problem")
_PLAIN_COLUMNS = {"text": _TEXT_COLUMNS, "prompt": _PROMPT_COLUMNS}


def format_of(entry: DatasetEntry) -> Format:
    """The format that reads this dataset."""
    found: Format = FORMATS.get(entry.formatting)
    return found


def kinds_of(entry: DatasetEntry) -> tuple[KindName, ...]:
    """The kinds that a dataset of this layout can be read as, the one it is made for first."""
    columns = entry.columns
    if entry.holds_pairs:
        return ("preference",)
    if columns.kto_tag:
        return ("feedback",)
    if columns.messages is None and columns.response is None:
        return ("text", "prompt")
    return ("conversation", "prompt")


def recognise(name: str, first: Sequence[Mapping[str, Any]], kind: KindName) -> DatasetEntry:
    """The entry whose format and columns these rows have. Raises: DataError when none fits."""
    formats = [FORMATS.get(format_name) for format_name in FORMATS]
    found = [entry for reader in formats if (entry := reader.recognise(name, first)) is not None]
    fitting = [entry for entry in found if kind in kinds_of(entry)]
    plain = None if fitting else _plain_entry(name, first, _PLAIN_COLUMNS.get(kind, ()))
    if fitting or plain:
        return plain or fitting[0]
    other = found[0] if found else _plain_entry(name, first, _TEXT_COLUMNS)
    if other is not None:
        return other
    counts = column_counts(first)
    fix = 'register it in dataset_info.json with "formatting" and "columns"'
    if counts["chosen"] and counts["rejected"]:
        fix = (
            'register it in dataset_info.json with "ranking": true and '
            '"columns": {"prompt": "COLUMN", "chosen": "chosen", "rejected": "rejected"}'
        )
    raise DataError(f"the format of '{name}' is not recognised: its columns are {counted(counts)}", where=name, fix=fix)


def _plain_entry(name: str, first: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> DatasetEntry | None:
    """An entry for rows with one column of text and no answers."""
    counts = column_counts(first)
    for column in columns:
        if counts[column] and all(isinstance(row.get(column), str | None) for row in first):
            return DatasetEntry(name=name, where=name, columns=Columns(prompt=column))
    return None


def without_absent_answers(entry: DatasetEntry, first: Sequence[Mapping[str, Any]]) -> DatasetEntry:
    """The entry without a default column of answers that no row has: prompts need none."""
    is_default = entry.columns_given is None
    if is_default and entry.columns.response is not None and entry.columns.response not in columns_in(first):
        return replace(entry, columns=replace(entry.columns, response=None))
    return entry


def check_stage(entry: DatasetEntry, kind: KindName, stage: str, first: Sequence[Mapping[str, Any]] = ()) -> None:
    """Raises: DataError when the dataset is made for other stages, or holds media.

    Args:
        kind: what the rows are to be read as, for `stage`.
        first: the first rows, to see which columns they have.
    """
    if entry.columns.images or entry.columns.videos or entry.columns.audios:
        raise DataError(
            f"dataset '{entry.name}' holds images, videos or audio, which cannot be trained on yet",
            where=f"{entry.where}, columns",
            fix="use a text dataset, or remove the media column from the entry to train on the text alone",
        )
    possible = kinds_of(entry)
    if kind in possible:
        return
    wanted, made_for = KINDS[kind], KINDS[possible[0]]
    *others, last = (name for each in possible for name in KINDS[each].stages)
    stages = f"{', '.join(others)} or {last}" if others else last
    raise DataError(
        f"dataset '{entry.name}' holds {made_for.holds}, which `stage: {stage}` cannot learn from",
        where=entry.where,
        why=_why(entry, kind),
        fix=_column_to_name(entry, kind, first)
        or f"it fits stage {stages}; {_if_answered(entry, kind) or f'`stage: {stage}` needs {wanted.needs}'}",
    )


def _why(entry: DatasetEntry, kind: KindName) -> str:
    if kind == "conversation" and entry.holds_pairs:
        return "it would train on the worse answers as on the better ones, or on no answer at all"
    if kind == "conversation" and entry.columns.kto_tag:
        return "it would train on the bad answers as on the good ones"
    if kind == "text" and not entry.holds_pairs and not entry.columns.kto_tag:
        return "it would learn the questions as text and never see the answers"
    return ""


def _column_to_name(entry: DatasetEntry, kind: KindName, first: Sequence[Mapping[str, Any]]) -> str:
    """What to add to the entry, where the rows have the columns that the stage needs and the entry is silent."""
    counts = column_counts(first)
    is_registered = entry.where != entry.name
    if not is_registered:
        return ""
    if kind == "preference" and counts["chosen"] and counts["rejected"]:
        return 'add to the entry: "ranking": true, and to its "columns": "chosen": "chosen", "rejected": "rejected"'
    labels = [name for name in columns_in(first) if any(isinstance(row.get(name), bool) for row in first)]
    if kind == "feedback" and labels and not entry.holds_pairs:
        return f'add to the "columns" of the entry: "kto_tag": "{labels[0]}"'
    texts = [name for name in _TEXT_COLUMNS if counts[name]]
    if kind == "text" and texts and entry.columns_given is None:
        return f'add to the entry: "columns": {{"prompt": "{texts[0]}"}}'
    return ""


def _if_answered(entry: DatasetEntry, kind: KindName) -> str:
    """What to add where a registered entry names prompts and no answers, which the rows may have."""
    if kind == "conversation" and kinds_of(entry)[0] == "text" and entry.columns_given is not None:
        return 'if the rows have answers, add to the "columns" of the entry: "response": "COLUMN"'
    return ""
