"""Reads text files as UTF-8, or says where and why that is impossible.

Data files come from spreadsheets, crawlers and half-finished downloads. Three things happen often and
produce unreadable errors elsewhere: another encoding (GBK, UTF-16), a Git-LFS pointer instead of the
file, and an HTML page instead of the download. All three are named here, before any parsing.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from pathlib import Path

from tunesmith.errors import DataError

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_CHUNK_BYTES = 1 << 20


def check_is_data(path: Path) -> None:
    """Look at the first bytes of a file. Raises: DataError when it is empty or stands in for data."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise DataError(f"the data file is empty: {path}", where=str(path), fix="check how it was written")
    if head.startswith(_LFS_POINTER):
        raise DataError(
            "this is a Git-LFS pointer, not the data",
            where=str(path),
            why="the repository was cloned without its large files",
            fix="run `git lfs install && git lfs pull` in that repository, or download the file itself",
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise DataError("this is a web page, not the data", where=str(path), fix="download the raw file")


def read_text(path: Path) -> str:
    """The whole file as text, without a byte order mark. Raises: DataError when it is not UTF-8."""
    check_is_data(path)
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _not_utf8(path, data) from None


def iter_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line with its 1-based number, without its line end, holding one line in memory.

    Raises: DataError when the file is not UTF-8.
    """
    check_is_data(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise _not_utf8(path, path.read_bytes()) from None
            yield number, text.rstrip("\r\n")


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _not_utf8(path: Path, data: bytes) -> DataError:
    position = _first_bad_byte(data)
    encoding = _guess_encoding(data)
    line = data.count(b"\n", 0, position) + 1
    return DataError(
        f"the file is not UTF-8 text: byte {position} is 0x{data[position]:02x}",
        where=f"{path}:{line}",
        why=f"it looks like {encoding}" if encoding else "the bytes there are no valid UTF-8 sequence",
        fix=f"convert it: iconv -f {encoding or 'ENCODING'} -t UTF-8 {path.name} > {path.stem}.utf8{path.suffix}",
    )


def _first_bad_byte(data: bytes) -> int:
    try:
        data.decode("utf-8")  # not utf-8-sig, whose positions do not count the byte order mark
    except UnicodeDecodeError as error:
        return error.start
    raise AssertionError("called for text that is UTF-8")


def _guess_encoding(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    sample = data[: 4 * _CHUNK_BYTES]
    try:
        text = sample.decode("gb18030")
    except UnicodeDecodeError as error:
        if error.end < len(sample) - 4:
            return ""
        text = sample[: error.start].decode("gb18030", "ignore")
    num_chinese = sum("\u4e00" <= character <= "\u9fff" for character in text)
    num_other = sum(character > "\x7f" for character in text)
    return "GB18030" if num_chinese > 0.5 * num_other else ""
