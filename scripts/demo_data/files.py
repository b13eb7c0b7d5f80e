"""Which files there are, who makes their rows, and their exact bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.demo_data import arithmetic, documents, extraction, feedback, transactions

LANGUAGES = ("en", "zh")
SPLITS = ("train", "test")
FOLDER = Path(__file__).resolve().parents[2] / "data" / "demo"
Rows = Sequence[Mapping[str, Any]]
GENERATORS: dict[str, Callable[[str, str], Rows]] = {
    "pt": documents.rows,
    "dpo": feedback.preference_rows,
    "kto": feedback.kto_rows,
    "arithmetic": arithmetic.rows,
    "extraction": extraction.rows,
    "transactions": transactions.rows,
}


def dataset_name(task: str, language: str, split: str) -> str:
    """The name under which dataset_info.json lists a file, and the file's name without its ending."""
    return f"{task}_{language}_demo" + ("" if split == "train" else f"_{split}")


def contents() -> dict[str, bytes]:
    """Every file's name and bytes: one JSON object per line, UTF-8."""
    return {
        dataset_name(task, language, split) + ".jsonl": _as_lines(rows(language, split))
        for task, rows in GENERATORS.items()
        for language in LANGUAGES
        for split in SPLITS
    }


def _as_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
