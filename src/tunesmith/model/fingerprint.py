"""What identifies a model's weights: refuses a resume on, or a merge into, other weights than were trained on.

Up to 4 GB the whole of every file is hashed (about 1 s per 2 GB). Beyond that each file counts with its
size, its header (names, shapes, types) and 64 evenly spaced blocks of 1 MiB: a change of the weights by
training touches every block, but a single flipped bit between blocks would be missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tunesmith.model.verify import weight_files

WHOLE_LIMIT_BYTES = 4 << 30
BLOCK_BYTES = 1 << 20
NUM_BLOCKS = 64


def weights_fingerprint(folder: Path) -> str:
    """sha256 over the weight files of a model folder, in order; prefixed by how it was taken."""
    return files_fingerprint(weight_files(folder))


def files_fingerprint(files: Sequence[Path]) -> str:
    """sha256 over files, in order; prefixed by how it was taken."""
    whole = sum(file.stat().st_size for file in files) <= WHOLE_LIMIT_BYTES
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
        _feed(digest, file, whole)
    return ("sha256:" if whole else "sampled-sha256:") + digest.hexdigest()


def file_sha256(file: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    _feed(digest, file, whole=True)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, file: Path, whole: bool) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if whole:
            while block := stream.read(8 * BLOCK_BYTES):
                digest.update(block)
            return
        header_length = int.from_bytes(stream.read(8), "little")
        digest.update(stream.read(header_length))
        step = max((size - BLOCK_BYTES) // (NUM_BLOCKS - 1), 1)
        for start in range(8 + header_length, size, step):
            stream.seek(start)
            digest.update(stream.read(BLOCK_BYTES))
