"""Lists the registered datasets for people: name, format, number of rows, files.

Rows are counted only where that is cheap: lines of JSON Lines and text, the footer of Parquet, and JSON
files up to a size that is read in a moment. Elsewhere the size is shown. An entry that is malformed or
whose file is missing is listed with its problem, so that one mistake does not hide the others.
"""

from __future__ import annotations

from pathlib import Path

from tunesmith.data.catalog import REGISTRY_NAME, Catalog
from tunesmith.data.schema import DatasetEntry
from tunesmith.data.sources import read_rows, shown_path
from tunesmith.data.tables import count_parquet_rows
from tunesmith.errors import DataError

_MAX_COUNTED_BYTES = 64 << 20


def listing_lines(catalog: Catalog) -> list[str]:
    """One line per registered dataset. Raises: DataError when there is no registry."""
    if catalog.folder is None:
        looked_at = "\n".join(str(path) for path in catalog.looked_at)
        raise DataError(f"there is no {REGISTRY_NAME}", why=f"looked at:\n{looked_at}", fix="set dataset_dir")
    rows = [_describe(catalog, name) for name in catalog.raw_entries]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    lines = [shown_path(catalog.folder / REGISTRY_NAME)]
    for name, kind, count, files in rows:
        lines.append(f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {count:>{widths[2]}}  {files}")
    return lines


def _describe(catalog: Catalog, name: str) -> tuple[str, str, str, str]:
    try:
        entry = catalog.entry(name)
        if entry.remote_source:
            return name, _kind(entry), "not local", entry.remote_source
        files = catalog.find(name).files
        return name, _kind(entry), _count(files), ", ".join(shown_path(file) for file in files)
    except DataError as error:
        return name, "problem", "", error.what


def _kind(entry: DatasetEntry) -> str:
    if entry.ranking:
        return f"{entry.formatting} pairs"
    return f"{entry.formatting} kto" if entry.columns.kto_tag else entry.formatting


def _count(files: tuple[Path, ...]) -> str:
    size_bytes = sum(file.stat().st_size for file in files)
    if all(file.suffix.lower() == ".parquet" for file in files):
        return f"{sum(count_parquet_rows(file, shown_path(file)) for file in files):,} rows"
    if size_bytes > _MAX_COUNTED_BYTES:
        return f"{size_bytes / 1e6:,.0f} MB"
    return f"{sum(1 for file in files for _ in read_rows(file, '')):,} rows"
