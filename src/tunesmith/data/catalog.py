"""Finds datasets: by their name in a dataset_info.json, or by the path of a file, folder or pattern.

A relative `dataset_dir` is looked for beside the configuration file first and in the working directory
second, so that the same configuration works from any directory. When something is not found, the error
lists every place that was looked at and the nearest names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.formats import default_layouts
from tunesmith.data.schema import DatasetEntry, parse_entry
from tunesmith.data.sources import has_wildcard, list_files, shown_path
from tunesmith.data.textfile import read_text
from tunesmith.errors import DataError, did_you_mean

REGISTRY_NAME = "dataset_info.json"


@dataclass(frozen=True)
class Dataset:
    """A dataset that was found: its entry (None while its format is to be recognised) and its files."""

    name: str
    files: tuple[Path, ...]
    entry: DatasetEntry | None


@dataclass(frozen=True)
class Catalog:
    """The registry that applies to a configuration, if there is one, and where was looked for it.

    Attributes:
        folder: the folder of the registry; None when no registry was found.
        raw_entries: dataset name -> the JSON value of its entry, not checked yet.
        looked_at: every registry file that was looked for, in order.
        search_dirs: where a dataset named by its path is looked for, in order.
    """

    folder: Path | None
    raw_entries: dict[str, Any] = field(default_factory=dict)
    looked_at: tuple[Path, ...] = ()
    search_dirs: tuple[Path, ...] = ()

    def entry(self, name: str) -> DatasetEntry:
        """The checked registry entry of a name that is registered. Raises: DataError when it is malformed."""
        assert self.folder is not None
        registry = shown_path(self.folder / REGISTRY_NAME)
        return parse_entry(name, self.raw_entries[name], registry, default_layouts())

    def find(self, name: str) -> Dataset:
        """The dataset of this name or path. Raises: DataError when there is none, or it is not local."""
        if name in self.raw_entries:
            return self._registered(self.entry(name))
        path = self._path_of(name)
        if path is None:
            raise self._unknown(name)
        return Dataset(name, tuple(list_files(path)), None)

    def _registered(self, entry: DatasetEntry) -> Dataset:
        if entry.remote_source:
            raise DataError(
                f"dataset '{entry.name}' is not a local file ({entry.remote_source})",
                where=entry.where,
                why="fetching datasets is not available yet",
                fix='download it first, then register the file with "file_name", or name the file itself as dataset',
            )
        assert self.folder is not None
        return Dataset(entry.name, tuple(list_files(self.folder / str(entry.file_name))), entry)

    def _path_of(self, name: str) -> Path | None:
        for folder in self.search_dirs:
            path = folder / name
            if path.exists() or (has_wildcard(name) and any(_glob(folder, name))):
                return path
        return None

    def _unknown(self, name: str) -> DataError:
        looked_at = [f"{path}{'' if path.is_file() else ' (not there)'}" for path in self.looked_at]
        looked_at += [str(folder / name) for folder in self.search_dirs]
        hint = did_you_mean(name, self._names_around())
        known = f"Registered: {', '.join(sorted(self.raw_entries)[:20])}." if self.raw_entries else ""
        return DataError(
            f"dataset '{name}' is neither registered nor a file",
            why="looked at:\n" + "\n".join(dict.fromkeys(looked_at)),
            fix=" ".join(part for part in (hint, known, f"Register it in {REGISTRY_NAME}, or give a path.") if part),
        )

    def _names_around(self) -> list[str]:
        names = list(self.raw_entries)
        for folder in self.search_dirs:
            if folder.is_dir():
                names += [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
        return names


def open_catalog(dataset_dir: str, config_dir: Path) -> Catalog:
    """The catalog of a configuration.

    Args:
        dataset_dir: as configured: a folder, absolute or relative.
        config_dir: the folder of the configuration file.
    Raises: DataError when `dataset_dir` means a hub, or the registry cannot be read.
    """
    if dataset_dir == "ONLINE" or dataset_dir.startswith("REMOTE:"):
        raise DataError(
            f"dataset_dir: {dataset_dir} reads datasets from a hub, which is not available yet",
            where="dataset_dir",
            fix="download the files and name their folder",
        )
    folders = _distinct([config_dir / dataset_dir, Path.cwd() / dataset_dir])
    looked_at = tuple(folder / REGISTRY_NAME for folder in folders)
    search_dirs = tuple(_distinct([config_dir, Path.cwd(), *folders]))
    registry = next((path for path in looked_at if path.is_file()), None)
    if registry is None:
        return Catalog(None, {}, looked_at, search_dirs)
    return Catalog(registry.parent, _read_registry(registry), looked_at, search_dirs)


def _distinct(folders: Sequence[Path]) -> list[Path]:
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def _glob(folder: Path, pattern: str) -> Any:
    if Path(pattern).is_absolute():
        return Path(pattern).parent.glob(Path(pattern).name)
    return folder.glob(pattern)


def _read_registry(path: Path) -> dict[str, Any]:
    try:
        registry = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"the dataset registry is not valid JSON: {error.msg}",
            where=f"{path}:{error.lineno}, column {error.colno}",
            fix="correct it there; a missing or extra comma between two entries is the usual cause",
        ) from None
    if not isinstance(registry, dict):
        raise DataError("the dataset registry is not an object of names", where=str(path))
    return registry
