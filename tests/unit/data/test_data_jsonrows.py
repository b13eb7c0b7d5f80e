"""The reader of JSON and JSON Lines: line numbers, recovery, encodings."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from tunesmith.data.rows import BadRow, Row
from tunesmith.data.sources import read_rows
from tunesmith.errors import DataError


def read(path: Path) -> list[Row | BadRow]:
    return list(read_rows(path, "d"))


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines_of(rows: list[Row | BadRow]) -> list[tuple[int, bool]]:
    """(line, is it good) of each row."""
    return [(row.ref.line, isinstance(row, Row)) for row in rows]


def test_every_row_of_json_lines_has_its_line(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": 2}\r\n   \n{"a": [3]}'))
    assert [(row.ref.line, row.ref.index) for row in rows] == [(1, 0), (3, 1), (5, 2)]
    assert [row.fields["a"] for row in rows if isinstance(row, Row)] == [1, 2, [3]]


def test_a_broken_line_is_named_by_its_number_and_reading_goes_on(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "a.jsonl", '{"a": 1}\n{"a": "x"\n{"a": 3}\n'))
    assert lines_of(rows) == [(1, True), (2, False), (3, True)]
    bad = rows[1]
    assert isinstance(bad, BadRow)
    assert "line 2, column 10" in bad.why
    assert str(bad).startswith(f"{tmp_path / 'a.jsonl'}:2: broken JSON")
    assert bad.fix


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"a": "x}', "close the quotes"),
        ('{"a": "x\ty"}', "\\t"),
        ("{'a': 1}", "double quotes"),
        ('{"a" 1}', '"name": value'),
        ('{"a": "C:\\data"}', "backslash"),
        ('{"a": None}', "true, false, null"),
        ('{"a": 1 "b": 2}', "comma"),
    ],
)
def test_each_kind_of_broken_json_has_its_remedy(tmp_path: Path, line: str, said: str) -> None:
    rows = read(write(tmp_path, "a.jsonl", f'{{"a": 1}}\n{line}\n'))
    assert isinstance(rows[1], BadRow)
    assert said in rows[1].fix


@pytest.mark.parametrize("value", ["[1, 2]", '"text"', "3", "null"])
def test_a_line_that_is_no_object_is_a_bad_row(tmp_path: Path, value: str) -> None:
    rows = read(write(tmp_path, "a.jsonl", f'{{"a": 1}}\n{value}\n'))
    assert lines_of(rows) == [(1, True), (2, False)]


def test_a_broken_first_line_does_not_hide_the_others(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "a.jsonl", '{"a": \n{"a": 2}\n{"a": 3}\n'))
    assert lines_of(rows) == [(1, False), (2, True), (3, True)]


def test_rows_of_an_array_have_the_lines_they_begin_on(tmp_path: Path) -> None:
    value = [{"instruction": str(index), "output": ["x"] * index} for index in range(4)]
    text = json.dumps(value, indent=2)
    rows = read(write(tmp_path, "a.json", text))
    expected = [number for number, line in enumerate(text.split("\n"), start=1) if line == "  {"]
    assert [row.ref.line for row in rows] == expected
    assert [row.fields for row in rows if isinstance(row, Row)] == value


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("broken", [0, 3, 9])
def test_a_broken_element_of_an_array_costs_only_that_row(tmp_path: Path, indent: int | None, broken: int) -> None:
    value = [{"instruction": f"q{index}", "output": "a", "history": [["x", "y"]]} for index in range(10)]
    elements = [json.dumps(row, indent=indent) for row in value]
    elements[broken] = elements[broken].replace('"a"', 'a"', 1)
    rows = read(write(tmp_path, "a.json", "[" + ", \n".join(elements) + "]\n"))
    assert [isinstance(row, Row) for row in rows] == [index != broken for index in range(10)]
    assert [row.fields for row in rows if isinstance(row, Row)] == value[:broken] + value[broken + 1 :]


def test_messages_inside_a_broken_row_are_not_taken_for_rows(tmp_path: Path) -> None:
    def conversation(index: int) -> str:
        turns = [{"from": "human", "value": f"q{index}"}, {"from": "gpt", "value": "a"}]
        return json.dumps({"conversations": turns, "system": "s"}, indent=2)

    elements = [conversation(index) for index in range(5)]
    elements[2] = elements[2].replace('"conversations": [', '"conversations": [,')
    rows = read(write(tmp_path, "a.json", "[" + ",\n".join(elements) + "]"))
    assert [isinstance(row, Row) for row in rows] == [True, True, False, True, True]
    assert all("conversations" in row.fields for row in rows if isinstance(row, Row))


def test_text_behind_the_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="follows the end of the array") as caught:
        read(write(tmp_path, "a.json", '[{"a": 1}]\n[{"a": 2}]'))
    assert caught.value.where.endswith("a.json:2")


def test_a_missing_brace_does_not_swallow_the_next_row(tmp_path: Path) -> None:
    text = '[{"a": 1},\n{"a": 2,\n{"a": 3},\n{"a": 4}]'
    rows = read(write(tmp_path, "a.json", text))
    assert lines_of(rows) == [(1, True), (2, False), (3, True), (4, True)]


def test_an_array_that_is_cut_short_is_refused_with_its_place(tmp_path: Path) -> None:
    text = json.dumps([{"a": "long text " * 5, "b": index} for index in range(9)], indent=1)
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, "a.json", text[: len(text) * 2 // 3]))
    assert "ends in the middle" in caught.value.what
    assert "a.json:" in caught.value.where
    assert "download" in caught.value.fix


def test_json_lines_inside_a_json_file_are_read_as_lines(tmp_path: Path) -> None:
    assert lines_of(read(write(tmp_path, "a.json", '{"a": 1}\n{"a": \n{"a": 3}\n'))) == [
        (1, True),
        (2, False),
        (3, True),
    ]


def test_an_array_inside_a_jsonl_file_is_read_as_an_array(tmp_path: Path) -> None:
    assert lines_of(read(write(tmp_path, "a.jsonl", '[\n{"a": 1},\n{"a": 2}\n]'))) == [(2, True), (3, True)]


def test_objects_over_several_lines_that_follow_each_other_are_read(tmp_path: Path) -> None:
    text = '{\n "a": 1\n}\n{\n "a": ,\n "b": 2\n}\n{\n "a": 3\n}\n'
    assert lines_of(read(write(tmp_path, "a.json", text))) == [(1, True), (4, False), (8, True)]


def test_rows_under_a_key_are_refused_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, "a.json", '{"version": 1, "data": [{"a": 1}, {"a": 2}]}'))
    assert "'data'" in caught.value.what
    assert "jq" in caught.value.fix


def test_a_single_row_is_a_dataset(tmp_path: Path) -> None:
    text = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
    assert lines_of(read(write(tmp_path, "a.json", text))) == [(1, True)]


def test_types_may_differ_from_row_to_row(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "a.jsonl", '{"a": {"x": 1}}\n{"a": "text"}\n{"a": null}\n{"a": [1, "b"]}\n'))
    assert [row.fields["a"] for row in rows if isinstance(row, Row)] == [{"x": 1}, "text", None, [1, "b"]]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path, name: str) -> None:
    rows = read(write(tmp_path, name, codecs.BOM_UTF8 + '{"a": "é"}\n{"a": "b"}\n'.encode()))
    assert [row.fields["a"] for row in rows if isinstance(row, Row)] == ["é", "b"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_another_encoding_is_named_with_its_byte_and_how_to_convert(tmp_path: Path, name: str, mark: bytes) -> None:
    chinese = "你好，请介绍一下你自己和你的工作内容".encode("gb18030")
    data = mark + b'{"a": "fine"}\n{"a": "' + chinese + b'"}\n'
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, name, data))
    assert f"byte {data.index(chinese)} is 0x{chinese[0]:02x}" in caught.value.what
    assert caught.value.where.endswith(f"{name}:2")
    if not mark:
        assert f"iconv -f GB18030 -t UTF-8 {name}" in caught.value.fix


def test_utf16_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, "a.json", '[{"a": 1}]'.encode("utf-16")))
    assert "iconv -f UTF-16" in caught.value.fix


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    for name in ("a.json", "a.jsonl", "a.csv", "a.txt", "a.parquet", "a.arrow"):
        with pytest.raises(DataError, match="Git-LFS pointer") as caught:
            read(write(tmp_path, name, text))
        assert "git lfs pull" in caught.value.fix


def test_a_web_page_saved_as_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="web page"):
        read(write(tmp_path, "a.json", "<!DOCTYPE html><html>not found</html>"))


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError):
        read(write(tmp_path, "a.jsonl", text))


def test_a_deeply_nested_row_is_a_bad_row(tmp_path: Path) -> None:
    deep = '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"
    rows = read(write(tmp_path, "a.jsonl", f'{{"a": 1}}\n{deep}\n{{"a": 2}}\n'))
    assert lines_of(rows) == [(1, True), (2, False), (3, True)]
