"""Files, folders and patterns; CSV, Parquet, Arrow and text."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tunesmith.data.rows import BadRow, Row
from tunesmith.data.sources import list_files, read_rows
from tunesmith.errors import DataError

ROWS = [
    {"instruction": "q1", "output": "a1", "history": [["x", "y"]]},
    {"instruction": "q2", "output": "a2", "history": None},
]


def read(path: Path) -> list[Row | BadRow]:
    return list(read_rows(path, "d"))


def test_csv_rows_have_the_line_they_begin_on(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('instruction,output\nq1,"two\nlines, and a comma"\n\nq2,a2\n', encoding="utf-8")
    rows = read(path)
    assert [(row.ref.line, row.ref.index) for row in rows] == [(2, 0), (5, 1)]
    assert isinstance(rows[0], Row)
    assert rows[0].fields == {"instruction": "q1", "output": "two\nlines, and a comma"}


def test_a_csv_row_with_too_many_cells_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("instruction,output\nq1,a1\nq2,a2, with a comma\nq3,a3\n", encoding="utf-8")
    rows = read(path)
    assert [isinstance(row, Row) for row in rows] == [True, False, True]
    assert isinstance(rows[1], BadRow)
    assert (rows[1].ref.line, "3 cells" in rows[1].why) == (3, True)


def test_broken_quotes_in_csv_are_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('instruction,output\nq1,"a"1\nq2,a2\n', encoding="utf-8")
    rows = read(path)
    assert [isinstance(row, Row) for row in rows] == [False, True]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_in_csv_is_named(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"instruction{separator}output\nq{separator}a\n", encoding="utf-8")
    with pytest.raises(DataError, match="not separated by commas"):
        read(path)


def test_a_long_csv_cell_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("instruction,output\nq," + "a" * 200_000 + "\n", encoding="utf-8")
    row = read(path)[0]
    assert isinstance(row, Row)
    assert len(row.fields["output"]) == 200_000


def test_parquet_and_both_kinds_of_arrow_give_the_same_rows(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pyarrow.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "file.arrow", "stream.arrow"):
        rows = read(tmp_path / name)
        assert [row.fields for row in rows if isinstance(row, Row)] == ROWS
        assert str(rows[1].ref) == f"{tmp_path / name}, row 1"


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_damaged_table_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 ARROW1 but not really" * 10)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / name)


def test_text_has_one_row_per_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n", encoding="utf-8")
    assert [(row.fields["text"], row.ref.line) for row in read(path) if isinstance(row, Row)] == [
        ("one", 1),
        ("two", 3),
    ]


def test_a_folder_is_read_in_the_order_of_names_without_hidden_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(sorted(iterdir(self))))
    for name in ("b.jsonl", "a.json", ".hidden.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    assert [path.name for path in list_files(tmp_path)] == ["a.json", "b.jsonl"]


def test_a_folder_saved_by_datasets_is_read(tmp_path: Path) -> None:
    for name in ("data-00000-of-00001.arrow", "dataset_info.json", "state.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert [path.name for path in list_files(tmp_path)] == ["data-00000-of-00001.arrow"]


def test_mixed_kinds_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.csv"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="mixes kinds"):
        list_files(tmp_path)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="xlsx"):
        list_files(tmp_path / "a.xlsx")


def test_a_missing_file_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list_files(tmp_path / "trian.jsonl")
    assert "train.jsonl" in caught.value.why
    assert "Did you mean 'train.jsonl'" in caught.value.fix


def test_a_pattern_is_sorted(tmp_path: Path) -> None:
    for name in ("part-2.jsonl", "part-1.jsonl", "other.csv"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert [path.name for path in list_files(tmp_path / "part-*.jsonl")] == ["part-1.jsonl", "part-2.jsonl"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file"):
        list_files(tmp_path)
