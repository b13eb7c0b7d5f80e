"""From a path to rows: which files a dataset consists of, and which reader each one needs.

A folder is read in the order of its sorted file names, so that no result depends on the order in which
a file system lists them. Hidden files and sub-folders are left out; mixed kinds are refused.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path

from tunesmith.data.jsonrows import read_json
from tunesmith.data.rows import RowStream
from tunesmith.data.tables import read_arrow, read_csv, read_parquet, read_txt
from tunesmith.errors import DataError, did_you_mean

_READERS: dict[str, tuple[str, Callable[[Path, str, str], RowStream]]] = {
    ".json": ("json", read_json),
    ".jsonl": ("json", read_json),
    ".csv": ("csv", read_csv),
    ".parquet": ("parquet", read_parquet),
    ".arrow": ("arrow", read_arrow),
    ".txt": ("text", read_txt),
}
# Never data: the registry, and what `datasets.Dataset.save_to_disk` writes beside its .arrow files.
_REGISTRY_NAME = "dataset_info.json"
_SAVED_DATASET_FILES = {"state.json", _REGISTRY_NAME}


def has_wildcard(name: str) -> bool:
    """Whether a dataset's name is a pattern such as `data/*.jsonl`."""
    return any(character in name for character in "*?[")


def list_files(path: Path) -> list[Path]:
    """The data files behind a file, folder or wildcard pattern, sorted.

    Raises: DataError when nothing is there, a kind is unknown, or kinds are mixed.
    """
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = _files_of_folder(path)
    elif has_wildcard(str(path)):
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    else:
        raise _missing(path)
    if not files:
        raise DataError("no data file is there", where=str(path), fix=f"put files there: {', '.join(_READERS)}")
    _check_kinds(files)
    return files


def read_rows(path: Path, dataset: str) -> RowStream:
    """The rows of one file. Raises: DataError as the file's reader does."""
    _, reader = _READERS[path.suffix.lower()]
    return reader(path, dataset, shown_path(path))


def shown_path(path: Path) -> str:
    """A path as messages show it: relative where it lies below the working directory."""
    resolved, here = path.resolve(), Path.cwd()
    return str(resolved.relative_to(here)) if resolved.is_relative_to(here) else str(resolved)


def _files_of_folder(folder: Path) -> list[Path]:
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    not_data = _SAVED_DATASET_FILES if any(file.suffix == ".arrow" for file in files) else {_REGISTRY_NAME}
    return [file for file in files if file.name not in not_data]


def _check_kinds(files: list[Path]) -> None:
    kinds: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() not in _READERS:
            raise DataError(
                f"files of the kind '{file.suffix or file.name}' cannot be read as data",
                where=str(file),
                fix=f"convert it to one of {', '.join(_READERS)}, or move it out of the folder",
            )
        kinds.setdefault(_READERS[file.suffix.lower()][0], file)
    if len(kinds) > 1:
        examples = ", ".join(f"{file.name} ({kind})" for kind, file in kinds.items())
        raise DataError(
            f"the folder mixes kinds of files: {examples}",
            where=str(files[0].parent),
            fix="keep one kind per folder, and register one dataset for each",
        )


def _missing(path: Path) -> DataError:
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    there = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    return DataError(
        f"the data file does not exist: {path.name}",
        where=str(path),
        why=f"{folder} holds: {there}" if there else f"{folder} is empty",
        fix=did_you_mean(path.name, names) or "correct the path",
    )
