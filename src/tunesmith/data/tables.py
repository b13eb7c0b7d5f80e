"""Reads rows from CSV, Parquet and Arrow files and from plain text, one row per line.

CSV goes through the standard library (every cell is text; line numbers are kept, also for cells that
hold line breaks). Parquet and Arrow go through pyarrow in batches, so that memory does not grow with
the file; their rows have no line, so messages name the row's position.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.data.rows import BadRow, Row, RowStream
from tunesmith.data.textfile import check_is_data, iter_lines, read_text
from tunesmith.errors import DataError
from tunesmith.types import RowRef

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 1024
_MAX_CELL_CHARACTERS = 2**31 - 1  # the csv module's default of 128 KiB is less than one long document


def read_csv(path: Path, dataset: str, shown: str) -> RowStream:
    """The rows of a comma-separated file with a header line. Raises: DataError when there is no usable header."""
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header = next(reader, [])
    _check_header(header, shown)
    yield from _csv_rows(reader, header, dataset, shown)


def _check_header(header: list[str], shown: str) -> None:
    if len(header) == 1 and any(separator in header[0] for separator in ";\t"):
        raise DataError(
            "the columns of this CSV file are not separated by commas",
            where=f"{shown}:1",
            why=f"the header is read as the one column {header[0]!r}",
            fix="save it again with commas as separator, or as JSON Lines",
        )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"two columns have the name '{repeated[0]}'", where=f"{shown}:1", fix="rename one of them")


def _csv_rows(reader: Any, header: list[str], dataset: str, shown: str) -> RowStream:
    index = 0
    while True:
        ref = RowRef(dataset, shown, reader.line_num + 1, index)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield BadRow(ref, "", f"broken CSV: {error}", 'put text that holds quotes in quotes and double them: ""')
            index += 1
            continue
        if cells is None:
            return
        if not cells:
            continue  # a blank line
        index += 1
        if len(cells) == len(header):
            yield Row(ref, dict(zip(header, cells, strict=True)))
        else:
            why = f"the row has {len(cells)} cells, the header {len(header)}"
            yield BadRow(ref, "", why, "put cells that hold commas or line breaks in double quotes")


def read_txt(path: Path, dataset: str, shown: str) -> RowStream:
    """The lines of a text file that are not blank, each as {"text": line}."""
    filled = ((number, line) for number, line in iter_lines(path) if line.strip())
    for index, (number, line) in enumerate(filled):
        yield Row(RowRef(dataset, shown, number, index), {"text": line})


def read_parquet(path: Path, dataset: str, shown: str) -> RowStream:
    """The rows of a Parquet file. Raises: DataError when it is damaged."""
    import pyarrow
    import pyarrow.parquet

    check_is_data(path)
    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=_BATCH_ROWS)
        yield from _table_rows(batches, dataset, shown)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(shown, "Parquet", error) from error


def count_parquet_rows(path: Path, shown: str) -> int:
    """The number of rows, from the file's footer. Raises: DataError when it is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(shown, "Parquet", error) from error


def read_arrow(path: Path, dataset: str, shown: str) -> RowStream:
    """The rows of an Arrow file, in the file format or the stream format. Raises: DataError when it is damaged."""
    import pyarrow

    check_is_data(path)
    try:
        with pyarrow.memory_map(str(path)) as source:
            yield from _table_rows(_arrow_batches(source), dataset, shown)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(shown, "Arrow", error) from error


def _arrow_batches(source: Any) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    if source.read(6) == b"ARROW1":
        reader = pyarrow.ipc.open_file(source)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        source.seek(0)
        yield from pyarrow.ipc.open_stream(source)


def _table_rows(batches: Iterator[pyarrow.RecordBatch], dataset: str, shown: str) -> RowStream:
    index = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for fields in batch.slice(start, _BATCH_ROWS).to_pylist():
                yield Row(RowRef(dataset, shown, 0, index), fields)
                index += 1


def _damaged(shown: str, kind: str, error: Exception) -> DataError:
    return DataError(
        f"the {kind} file cannot be read: {str(error).splitlines()[0]}",
        where=shown,
        why="it is cut short, damaged, or of another kind than its name says",
        fix="download or write it again",
    )
