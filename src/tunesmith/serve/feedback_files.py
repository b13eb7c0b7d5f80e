"""Write rows made of feedback as a dataset: the file, and its entry in the dataset_info.json beside it.

Other entries of dataset_info.json stay as they are, and so does every file that this command has not written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.serve.feedback import Aim
from tunesmith.serve.transcript import read_json, read_text

REGISTRY = "dataset_info.json"
_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
_TOOL_TAGS = {"observation_tag": "tool", "function_tag": "function"}


@dataclass(frozen=True)
class Written:
    """A dataset on disk: its name in the registry, its file, the registry."""

    name: str
    rows: Path
    registry: Path


def write_dataset(rows: Sequence[Mapping[str, Any]], aim: Aim, folder: Path, name: str) -> Written:
    """Write `NAME.jsonl` and register it.

    Raises: DataError when the registry cannot be read, names another file under this name, or nothing can be written.
    """
    file = folder / f"{name}.jsonl"
    registry = folder / REGISTRY
    entries = _entries(registry)
    there = entries.get(name)
    if there is not None and not (isinstance(there, dict) and there.get("file_name") == file.name):
        raise DataError(
            f"dataset_info.json has another dataset named '{name}'", where=str(registry), fix="Choose another: --name"
        )
    if there is None and file.exists():
        raise DataError(f"{file} exists and is not registered as '{name}'", fix="Choose another name: --name")
    entries[name] = entry_of(rows, aim, file.name)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(file, "".join(f"{line}\n" for line in lines))
        _replace(registry, json.dumps(entries, ensure_ascii=False, indent=2) + "\n")
    except OSError as error:
        raise DataError(f"cannot write to {folder}", why=error.strerror or str(error), fix="Name another.") from error
    return Written(name, file, registry)


def entry_of(rows: Sequence[Mapping[str, Any]], aim: Aim, file_name: str) -> dict[str, Any]:
    """The entry of dataset_info.json; rows with tool calls are OpenAI messages, others sharegpt with such names."""
    answers = [row.get(key) for row in rows for key in ("chosen", "rejected")]
    turns = [turn for row in rows for turn in row["messages"]] + [turn for turn in answers if turn]
    has_calls = any(turn.get("tool_calls") or turn["role"] == "tool" for turn in turns)
    columns = {"messages": "messages"}
    columns |= {"kto": {"kto_tag": "kto_tag"}, "dpo": {"chosen": "chosen", "rejected": "rejected"}, "sft": {}}[aim]
    if any("tools" in row for row in rows):
        columns["tools"] = "tools"
    entry: dict[str, Any] = {"file_name": file_name, "formatting": "openai" if has_calls else "sharegpt"}
    if aim == "dpo":
        entry["ranking"] = True
    return {**entry, "columns": columns, "tags": {**_TAGS, **(_TOOL_TAGS if has_calls else {})}}


def _entries(registry: Path) -> dict[str, Any]:
    return read_json(read_text(registry), str(registry)) if registry.is_file() else {}


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
