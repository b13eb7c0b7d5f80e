"""Checkpoints that are whole or not there, and that continue only the run they belong to.

A checkpoint is written into a hidden folder beside its place, every file is flushed to disk, a manifest with
sizes and hashes is written last, and one rename puts it in place: `kill -9` at any moment leaves either the
checkpoint or none. Finding the newest one checks the manifest, so a folder torn by other means (a full disk,
a copy that broke off) is passed over with a message.
No pickles: tensors are safetensors, the rest is JSON.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.errors import ResumeError, TrainingError
from tunesmith.model.checkpoints import MANIFEST, RESUME, checkpoints, why_incomplete
from tunesmith.model.fingerprint import file_sha256
from tunesmith.model.folder import open_permissions, put_in_place
from tunesmith.train.optim import pack_state, unpack_state
from tunesmith.train.state import TrainerState

OPTIMIZER = "optimizer.safetensors"
PART_SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run depends on, part by part, so that a refusal can name what changed.

    `must_match` parts (data, template, tokenizer, base weights, batch layout) refuse a resume when they
    differ; `may_change` parts (learning rate, number of epochs, ...) are reported.
    """

    must_match: Mapping[str, str]
    may_change: Mapping[str, str]


def newest_complete(run: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that can be resumed from; newer ones that cannot are named through `say`."""
    for folder in reversed(checkpoints(run)):
        problem = why_incomplete(folder)
        if not problem:
            return folder
        say(f"passed over {folder.name}: {problem}")
    return None


def remove_parts(run: Path) -> list[str]:
    """Delete what an interrupted save left behind. Returns the names."""
    parts = [path for path in run.glob(f".checkpoint-*{PART_SUFFIX}") if path.is_dir()]
    for path in parts:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in parts]


def write_checkpoint(run: Path, step: int, fill: Callable[[Path], None], keep: Path | None = None) -> Path:
    """Write `checkpoint-{step}` through `fill(folder)`, atomically.

    Args:
        keep: the newest checkpoint so far, named when this save fails.

    Raises:
        TrainingError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    place = run / f"checkpoint-{step}"
    part = run / f".checkpoint-{step}{PART_SUFFIX}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        fill(part)
        open_permissions(part)
        _write_manifest(part)
        put_in_place(part, place)
        _flush(run)
    except (OSError, SafetensorError) as err:
        shutil.rmtree(part, ignore_errors=True)
        raise save_failure(err, place, keep) from err
    return place


def save_failure(err: Exception, place: Path, keep: Path | None) -> TrainingError:
    """What to tell the user when `place` could not be written; `keep` is the newest checkpoint before it."""
    full = getattr(err, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(err)
    free = shutil.disk_usage(place.parent).free if place.parent.is_dir() else 0
    kept = f"{keep.name} is untouched" if keep else "there was no earlier checkpoint"
    return TrainingError(
        f"the disk is full: {place.name} could not be saved" if full else f"{place.name} could not be saved: {err}",
        where=str(place),
        why=f"{free / 1e6:,.1f} MB are free there; {kept}",
        fix="free some space (or lower `save_total_limit`), then run the same command: it resumes by itself",
    )


def _write_manifest(folder: Path) -> None:
    """Flush every file, then write their sizes and hashes; the manifest is the mark of completeness."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {}
    for file in files:
        _flush(file)
        entries[str(file.relative_to(folder))] = {"size_bytes": file.stat().st_size, "sha256": file_sha256(file)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"schema_version": 1, "files": entries}, indent=1) + "\n", encoding="utf-8")
    _flush(manifest)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_training_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainerState, identity: Identity
) -> None:
    """Everything besides the weights that the loop needs to go on exactly here."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors, numbers = pack_state(optimizer, names)
    save_file(tensors, folder / OPTIMIZER)
    resume = {
        "must_match": dict(identity.must_match),
        "may_change": dict(identity.may_change),
        "optimizer_numbers": numbers,
    }
    (folder / RESUME).write_text(json.dumps(resume, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_identity(folder: Path, now: Identity) -> list[str]:
    """Compare the run that wrote a checkpoint with the one that wants to continue it.

    Returns:
        Sentences about settings that changed and may change.

    Raises:
        ResumeError: something that must match has changed, by name.
    """
    stored = json.loads((folder / RESUME).read_text(encoding="utf-8"))
    before, changed = stored["must_match"], []
    for part in sorted({*before, *now.must_match}):
        if before.get(part) != now.must_match.get(part):
            changed.append(f"{part}: {_short(before.get(part))} -> {_short(now.must_match.get(part))}")
    if changed:
        raise ResumeError(
            f"{folder} was not made by this run: {len(changed)} thing(s) it depends on have changed",
            where="\n".join(changed),
            why="continuing would mix two different trainings",
            fix="restore it, choose another `output_dir`, or set `overwrite_output_dir: true` to start anew",
        )
    notes = []
    for key in sorted({*stored["may_change"], *now.may_change}):
        old, new = stored["may_change"].get(key), now.may_change.get(key)
        if old != new:
            notes.append(
                f"`{key}` was {old} when the checkpoint was written and is {new} now; from here on {new} applies"
            )
    return notes


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    head, colon, digest = value.rpartition(":")
    return head + colon + digest[:12] + "…" if re.fullmatch(r"[0-9a-f]{40,}", digest) else value


def load_training_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainerState:
    """Put optimizer state back and return the loop's state."""
    tensors = load_file(folder / OPTIMIZER)
    numbers: dict[str, Any] = json.loads((folder / RESUME).read_text(encoding="utf-8"))["optimizer_numbers"]
    unpack_state(optimizer, model.named_parameters(), tensors, numbers)
    return TrainerState.read(folder)


def rotate(run: Path, limit: int | None, best: str | None) -> list[str]:
    """Delete the oldest checkpoints beyond `save_total_limit`; the best one stays. Returns the deleted names."""
    if not limit or limit < 1:
        return []
    found = checkpoints(run)
    spare = [path for path in found if path.name != best]
    room = limit - (len(found) - len(spare))
    surplus = spare[: max(len(spare) - max(room, 1), 0)]
    for path in surplus:
        shutil.rmtree(path)
    return [path.name for path in surplus]
