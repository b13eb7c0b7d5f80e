"""`tunesmith feedback FILE.jsonl --as kto|dpo|sft --out FOLDER`: verdicts of the web chat become training rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from tunesmith.errors import ConfigError, DataError

_USAGE = "tunesmith feedback FILE.jsonl --as kto|dpo|sft --out FOLDER [--name NAME]"


def run(argv: list[str]) -> int:
    """Make rows, write them, and say what became of every record."""
    from tunesmith.serve.feedback import AIMS, make_rows, read_verdicts
    from tunesmith.serve.feedback_files import write_dataset

    given = _parse(argv, AIMS)
    account = make_rows(read_verdicts(given.file), given.aim)
    num_unused = sum(account.reasons().values())
    told = f"{account.num_records} records -> {len(account.rows)} rows for {given.aim}; {num_unused} records unused"
    print("\n".join([told, *(f"  {count} x {why}" for why, count in account.reasons().items())]))
    if not account.rows:
        raise DataError("there is no row to write", where=str(given.file), fix=_HINTS[given.aim])
    written = write_dataset(account.rows, given.aim, given.out, given.name or f"feedback_{given.aim}")
    print(f"wrote {written.rows} and its entry in {written.registry}")
    print(f"train with: stage: {given.aim}, dataset: {written.name}, dataset_dir: {given.out}")
    if given.aim == "kto" and len({row["kto_tag"] for row in account.rows}) == 1:
        print("note: all rows have the same thumb; `stage: kto` needs both")
    return 0


_HINTS = {
    "kto": "Vote on answers first.",
    "dpo": "Edit an answer, choose between two models, or give a thumb up and one down on answers to one question.",
    "sft": "Give a thumb up, or edit an answer.",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(message, fix=_USAGE)


def _parse(argv: list[str], aims: tuple[str, ...]) -> argparse.Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("file", type=Path)
    parser.add_argument("--as", dest="aim", choices=aims, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="")
    return parser.parse_args(argv)
