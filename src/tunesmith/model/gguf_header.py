"""The header of a GGUF file: what it says of itself, and where its tensors lie. Nothing else is read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.errors import ModelError

MAGIC = b"GGUF"
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 30: (1, 2),
}  # fmt: skip
"""Type of a tensor -> (values in a block, bytes of a block)."""
_MOST_DIMENSIONS = 8
_MOST = 1 << 32
"""No text, list or count of a whole file is longer."""


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor: name, shape, and the bytes of the file that it takes. `end` is its begin for a type unknown here."""

    name: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class GGUFHeader:
    """What stands in front of the weights. `fields`: key -> value; a list only by its length, `(length,)`."""

    fields: dict[str, Any]
    tensors: Sequence[GGUFTensor]


def read_gguf_header(file: Path) -> GGUFHeader:
    """Raises: ModelError when the file is no GGUF file, ends too early, or holds a tensor that reaches past its end."""
    try:
        with file.open("rb") as stream:
            header = _read(stream)
    except (struct.error, UnicodeDecodeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelError(f"{file.name} is no whole GGUF file", why=str(error) or "it ends in its header") from error
    size = file.stat().st_size
    beyond = [tensor.name for tensor in header.tensors if tensor.end > size or tensor.begin > size]
    if beyond:
        raise ModelError(
            f"{file.name} is cut off: it has {size:,} bytes, its tensors need {max(t.end for t in header.tensors):,}",
            why=f"{len(beyond)} of {len(header.tensors)} tensors reach past its end",
        )
    return header


def _read(stream: BinaryIO) -> GGUFHeader:
    if stream.read(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version, num_tensors, num_fields = _unpack(stream, "IQQ")
    if version not in (2, 3):
        raise ValueError(f"version {version} is not known")
    fields = {}
    for _ in range(_count(num_fields)):
        key = _text(stream)
        fields[key] = _value(stream, _unpack(stream, "I")[0])
    entries = [_entry(stream) for _ in range(_count(num_tensors))]
    alignment = int(fields.get("general.alignment", 32)) or 32
    start = -(-stream.tell() // alignment) * alignment
    return GGUFHeader(fields, [_placed(*entry, start) for entry in entries])


def _entry(stream: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset of a tensor."""
    name = _text(stream)
    num_dimensions = _unpack(stream, "I")[0]
    if num_dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor has {num_dimensions:,} dimensions")
    shape = _unpack(stream, f"{num_dimensions}Q")
    kind, offset = _unpack(stream, "IQ")
    return name, shape, kind, offset


def _placed(name: str, shape: tuple[int, ...], kind: int, offset: int, start: int) -> GGUFTensor:
    values, num_bytes = _BLOCKS.get(kind, (1, 0))
    return GGUFTensor(name, shape, start + offset, start + offset + prod(shape) // values * num_bytes)


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(stream)
    if kind == _ARRAY:
        inner, length = _unpack(stream, "IQ")
        _skip(stream, inner, _count(length))
        return (length,)
    return _unpack(stream, _number(kind))[0]


def _skip(stream: BinaryIO, kind: int, length: int) -> None:
    if kind in (_STRING, _ARRAY):
        for _ in range(length):
            _value(stream, kind) if kind == _ARRAY else _text(stream)
    else:
        stream.seek(length * struct.calcsize(_number(kind)), 1)


def _number(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError(f"a field has the unknown type {kind}")
    return _NUMBERS[kind]


def _text(stream: BinaryIO) -> str:
    length = _count(_unpack(stream, "Q")[0])
    found = stream.read(length)
    if len(found) < length:
        raise ValueError("it ends in its header")
    return found.decode("utf-8", errors="surrogateescape")


def _count(number: int) -> int:
    if number > _MOST:
        raise ValueError(f"a length of {number:,} cannot be right")
    return number


def _unpack(stream: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", stream.read(struct.calcsize(f"<{form}")))
