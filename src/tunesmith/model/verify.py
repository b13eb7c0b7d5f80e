"""Is a model folder whole? Answered from file names, sizes and headers, in milliseconds, before any weight is read.

What goes wrong most often: a Git-LFS pointer instead of the file (a clone without git-lfs), a download that
broke off, a shard that is missing. Loaders report these as `HeaderTooLarge` or `InvalidHeaderDeserialization`;
here the file, the missing amount and the remedy are named.
Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, tensor bytes).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, nearest

LFS_MAGIC = b"version https://git-lfs.github.com/spec/"
MAX_HEADER_BYTES = 100_000_000
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def verify_model_folder(folder: str | Path) -> list[Path]:
    """Check a base model's folder.

    Returns:
        Its weight files, in order.

    Raises:
        ModelError: the folder, its config.json or a shard is missing, a pointer, or too short.
    """
    path = Path(folder)
    verify_tokenizer_folder(path)
    read_model_config(path)
    shards = weight_files(path)
    for shard in shards:
        verify_safetensors(shard)
    return shards


def verify_tokenizer_folder(path: Path) -> None:
    """The part of the check that a tokenizer needs: the folder is there, and its files are no pointers."""
    if not path.is_dir():
        raise _missing_folder(path)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        if (path / name).is_file():
            _refuse_pointer(path / name)


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises: ModelError when it is missing or no JSON object."""
    file = folder / "config.json"
    if not file.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise ModelError(
            f"{folder} holds no config.json",
            why="it is an adapter, which needs its base model" if adapter else "it is not a model folder",
            fix="set `model_name_or_path` to the base and `adapter_name_or_path` to this folder"
            if adapter
            else "set `model_name_or_path` to the folder that holds config.json and the weights",
        )
    return read_json_object(file)


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises: ModelError when it is missing, a pointer, or something else."""
    if not file.is_file():
        raise ModelError(f"{file} is missing", fix="download it again")
    _refuse_pointer(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as err:
        raise ModelError(f"{file} is not valid JSON: {err}", fix="download the file again") from err
    if not isinstance(found, dict):
        raise ModelError(f"{file} does not hold a JSON object", fix="download the file again")
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model, by the index where there is one."""
    index = folder / INDEX
    if index.is_file():
        _refuse_pointer(index)
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as err:
            raise ModelError(f"{index} cannot be read as a weight index: {err}", fix="download it again") from err
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{len(missing)} of {len(names)} weight files are missing: {', '.join(missing[:4])}",
                where=str(folder),
                fix="download the missing files into this folder",
            )
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pth"))
    raise ModelError(
        f"{folder} holds no safetensors weights",
        why=f"it holds {', '.join(pickles[:3])}: pickle files can run code when read, so they are never loaded"
        if pickles
        else f"neither {SINGLE} nor {INDEX} is there",
        fix="download the safetensors version of the model"
        if pickles
        else "download the weights into this folder, or correct `model_name_or_path`",
    )


def verify_safetensors(file: Path) -> dict[str, Any]:
    """Check one file's header and size. Returns the header. Raises: ModelError naming what is wrong."""
    _refuse_pointer(file)
    size = file.stat().st_size
    again = f"download {file.name} again (its full size is shown on the model's page)"
    if size < 8:
        raise ModelError(f"{file} is {size} bytes long: no safetensors file", fix=again)
    with file.open("rb") as stream:
        header_length = int.from_bytes(stream.read(8), "little")
        if header_length > MAX_HEADER_BYTES:
            raise ModelError(
                f"{file} is not a safetensors file (its header claims {header_length:,} bytes: HeaderTooLarge)",
                why="the file is damaged, or it is something else under this name (an HTML page of a failed download?)",
                fix=again,
            )
        raw = stream.read(header_length)
    if len(raw) < header_length:
        raise ModelError(f"{file} ends inside its header, after {size:,} bytes", fix=again)
    try:
        header = json.loads(raw)
        end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError) as err:
        raise ModelError(f"the header of {file} cannot be read: {err}", fix=again) from err
    expected = 8 + header_length + end
    if size != expected:
        problem = (
            f"{file} is {size:,} of {expected:,} bytes long: {expected - size:,} bytes are missing"
            if size < expected
            else f"{file} is {size - expected:,} bytes too long"
        )
        raise ModelError(problem, why="the download or copy broke off" if size < expected else "", fix=again)
    return header


def _refuse_pointer(file: Path) -> None:
    with file.open("rb") as stream:
        head = stream.read(256)
    if not head.startswith(LFS_MAGIC):
        return
    size = next((line[5:] for line in head.decode("ascii", "replace").splitlines() if line.startswith("size ")), "?")
    wanted = f"{int(size):,} bytes" if size.isdigit() else "the real file"
    raise ModelError(
        f"{file} is a Git-LFS pointer of {file.stat().st_size} bytes, not the file itself ({wanted})",
        why="the repository was cloned without git-lfs; loaders call this HeaderTooLarge",
        fix=f"run `git lfs install && git lfs pull` in {file.parent}, or download the file from the model's page",
    )


def _missing_folder(path: Path) -> ModelError:
    parent = path.parent
    siblings = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    near = nearest(path.name, siblings)
    hint = f" Nearby: {', '.join(str(parent / name) for name in near)}." if near else ""
    return ModelError(
        f"no model folder at {path}",
        why="" if path.is_absolute() else f"looked in the working directory, {Path.cwd()}",
        fix=f"correct `model_name_or_path`, or download the model there first.{hint}",
    )
