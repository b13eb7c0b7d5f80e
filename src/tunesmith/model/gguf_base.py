"""A GGUF file as base model: unpacked once into a cache folder, which then serves as any model folder does.

So tokenizer, chat template, fingerprints, training, chat and export see plain safetensors, and the file is not unpacked
again at every start. Cost: about 20 s and 2 bytes per weight on disk for 135M parameters. Files that hold 16- or 32-bit
weights are unpacked without loss; quantized ones to bfloat16, whose rounding is ten times finer than theirs.
What the quantization rounded away does not come back: training starts from the rounded weights.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import ModelError

if TYPE_CHECKING:
    import torch

SUFFIX = ".gguf"


def gguf_file_of(path: Path) -> Path | None:
    """The GGUF file that a model path names: itself, or the only one in a folder that holds no other model.

    Raises: ModelError when a folder holds several.
    """
    if path.suffix.lower() == SUFFIX:
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX)
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:6])
        raise ModelError(
            f"{path} holds {len(files)} GGUF files: which one is the base model?",
            where=names,
            fix=f"set `model_name_or_path` to one of them, such as {files[0]}",
        )
    return files[0] if files else None


def unpacked(gguf_file: Path, cache_dir: str | None) -> Path:
    """The model folder that `gguf_file` is unpacked to; made when it is not there yet.

    Raises: ModelError when the file is missing, damaged, or of an architecture that transformers does not know as GGUF.
    """
    from tunesmith.model.gguf import check_gguf

    check_gguf(gguf_file)
    facts = gguf_file.stat()
    return _unpacked(gguf_file.resolve(), _cache_root(cache_dir), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=8)
def _unpacked(gguf_file: Path, cache_root: Path, size_bytes: int, changed_ns: int) -> Path:
    """Remembered while the file has this size and time of change: the hash over it is not taken again."""
    from tunesmith.model.fingerprint import files_fingerprint
    from tunesmith.model.gguf import convert_gguf

    digest = files_fingerprint([gguf_file]).rpartition(":")[2]
    folder = cache_root / "gguf" / f"{gguf_file.stem}-{digest[:16]}"
    with _alone(folder):
        if not (folder / "config.json").is_file():
            convert_gguf(gguf_file, folder, stored_dtype(gguf_file))
    return folder


def gguf_note(gguf_file: Path, folder: Path) -> str:
    """What the user is told about a base model that came as GGUF."""
    return (
        f"{gguf_file.name} is unpacked to {str(stored_dtype(gguf_file)).removeprefix('torch.')} in {folder}: training "
        "and inference compute on unpacked weights, and what its quantization rounded away does not come back"
    )


def stored_dtype(gguf_file: Path) -> torch.dtype:
    """The widest float type of the file's matrices, when they are floats; bfloat16 when any is quantized.

    Raises: ModelError when the file is damaged.
    """
    import gguf
    import torch

    from tunesmith.model.gguf import UNREADABLE, unreadable

    try:
        tensors = gguf.GGUFReader(gguf_file).tensors
    except UNREADABLE as error:
        raise unreadable(gguf_file, error) from error
    floats = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    kinds = {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1}
    if not kinds <= floats.keys():
        return torch.bfloat16
    return next((dtype for name, dtype in floats.items() if name in kinds), torch.float32)


def _cache_root(cache_dir: str | None) -> Path:
    """`cache_dir`, else $TUNESMITH_CACHE, else $XDG_CACHE_HOME/tunesmith, else ~/.cache/tunesmith."""
    named = cache_dir or os.environ.get("TUNESMITH_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, where the system has file locks: several ranks start at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
