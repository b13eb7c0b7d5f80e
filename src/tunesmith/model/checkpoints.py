"""The checkpoint folders of a run: which there are, and which are whole. Reads files only; needs no torch.

A checkpoint's manifest is written last, with the size and hash of every other file: without it, or with a
file that does not match it, the folder is torn.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tunesmith.model.fingerprint import file_sha256

MANIFEST, RESUME = "manifest.json", "resume.json"
CHECKPOINT_NAME = re.compile(r"^checkpoint-(\d+)$")


def checkpoint_step(folder: Path) -> int:
    """The step in a checkpoint folder's name, -1 for another folder."""
    match = CHECKPOINT_NAME.match(folder.name)
    return int(match[1]) if match else -1


def checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first, complete or not."""
    found = [path for path in run.glob("checkpoint-*") if path.is_dir() and checkpoint_step(path) >= 0]
    return sorted(found, key=checkpoint_step)


def why_torn(folder: Path, *, hashes: bool) -> str:
    """Why a checkpoint is not whole, by the sizes in its manifest and, if wanted, by the hashes; else empty."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return f"{MANIFEST} is missing: it was not finished"
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError):
        return f"{MANIFEST} cannot be read"
    for name, facts in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != facts["size_bytes"]:
            return f"{name} is {file.stat().st_size:,} of {facts['size_bytes']:,} bytes long"
        if hashes and file_sha256(file) != facts["sha256"]:
            return f"{name} has changed since it was written"
    return ""


def why_incomplete(folder: Path) -> str:
    """Why a checkpoint cannot be resumed from, or an empty string."""
    torn = why_torn(folder, hashes=True)
    if not torn and not (folder / RESUME).is_file():
        return "it holds the model only (`save_only_model: true`)"
    return torn
