"""Write a model folder beside its destination and rename it into place when it is whole.

A reader never meets half a model under the final name, and a failed write leaves the earlier folder as it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from tunesmith.errors import ModelError


@contextlib.contextmanager
def written_beside(destination: Path) -> Iterator[Path]:
    """Yield an empty folder next to `destination`; it replaces `destination` when the block ends without error.

    Whatever is at `destination` then is removed: the caller has decided that it may go.
    After an error the new folder is removed and `destination` is untouched.

    Raises: ModelError when the disk is full or cannot be written.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{destination.name}.part-", dir=destination.parent))
    try:
        yield part
        open_permissions(part)
        put_in_place(part, destination)
    except (OSError, SafetensorError) as error:  # safetensors does not report a full disk as an OSError
        raise ModelError(
            f"writing to {destination} failed: {getattr(error, 'strerror', None) or error}",
            why="Nothing is left there, and what was there before is untouched.",
            fix="Free some space, or name another folder.",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def put_in_place(part: Path, destination: Path) -> None:
    """Rename `part` to `destination`, replacing what is there; the old folder goes only after the rename."""
    old = destination.with_name(f".{destination.name}.old-{os.getpid()}")
    replaced = destination.exists()
    if replaced:
        os.replace(destination, old)
    try:
        os.replace(part, destination)
    except OSError:
        if replaced:
            os.replace(old, destination)
        raise
    shutil.rmtree(old, ignore_errors=True)


def open_permissions(folder: Path) -> None:
    """Give a folder and its files what the umask allows: temporary folders and safetensors files are born private."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
