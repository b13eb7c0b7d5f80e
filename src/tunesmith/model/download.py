"""Download a model or dataset from a hub: resumed where it broke off, then verified against what the hub records.

The hubs' own clients transfer (`huggingface_hub`, which HF_ENDPOINT sends to a mirror and HF_TOKEN lets into gated
repositories; `modelscope`). Before a byte is transferred the list of files is read: it says how much room is needed and
which files are pickles. These are never fetched: skipped where safetensors hold the same weights, refused where not.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import ModelError
from tunesmith.model.hub_sources import HuggingFaceSource, ModelScopeSource, Remote, RemoteFile
from tunesmith.model.hubs import REPOSITORY, import_modelscope, network_errors
from tunesmith.model.wholeness import DOWNLOAD, PICKLES, file_fault

MODEL_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt", "*.tiktoken", "*.md", "LICENSE*")
_IGNORED = ("*.gitattributes", ".gitattributes")
_FREE_MARGIN_BYTES = 200 * 10**6


def download(
    remote: Remote, to: Path | None, *, cache_dir: str | None = None, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Fetch what is missing and verify everything; returns the folder.

    Args:
        to: folder to write; None: the hub client's own cache, where `model_name_or_path: OWNER/NAME` finds it.
        cache_dir: another place for that cache.
        say: told what will be fetched, what is left out and why, and the result.

    Raises: ModelError: no such repository, no access, no connection, no room, pickles only, or a damaged file.
    """
    if not REPOSITORY.match(remote.name):
        raise ModelError(f"'{remote.name}' is no repository's name", fix="write OWNER/NAME, as the hub's page shows it")
    source: HuggingFaceSource | ModelScopeSource = (
        ModelScopeSource(remote) if remote.hub == "modelscope" else HuggingFaceSource(remote, cache_dir)
    )
    with _clear_errors(remote):
        commit, listed = source.listing()
    wanted, notes = choose_files(remote, listed)
    place = to or source.cache()
    _check_room(place, wanted, to)
    total_bytes = sum(file.size_bytes for file in wanted)
    for line in notes:
        say(f"note: {line}")
    say(f"{remote.name} ({remote.hub}, {commit[:12]}): {len(wanted)} files, {total_bytes / 1e9:.2f} GB")
    with _clear_errors(remote):
        folder = source.fetch(commit, wanted, to)
    _verify(folder, wanted)
    if to is not None:
        _record(folder, remote, commit, wanted)
    say(f"verified: {len(wanted)} files, sizes and hashes as the hub records them")
    return folder


def choose_files(remote: Remote, listed: Sequence[RemoteFile]) -> tuple[list[RemoteFile], list[str]]:
    """(the files to fetch, notes). Raises: ModelError when weights are there as pickles only, or nothing matches."""
    patterns = remote.include or (("*",) if remote.is_dataset else MODEL_FILES)
    chosen = [file for file in listed if _matches(file.name, patterns) and not _matches(file.name, _IGNORED)]
    pickles = [file for file in listed if file.name.endswith(PICKLES)]
    has_safe = any(file.name.endswith(".safetensors") for file in listed)
    notes = []
    if pickles and not remote.is_dataset:
        names = ", ".join(file.name for file in pickles[:3])
        if not has_safe and (not remote.include or any(file in chosen for file in pickles)):
            raise ModelError(
                f"{remote.name} holds its weights as pickles only ({names})",
                why="a pickle can run any code when it is opened, so none is ever fetched or read",
                fix="look for a safetensors version: often a branch (--revision refs/pr/N) or a copy by somebody else",
            )
        size = sum(file.size_bytes for file in pickles)
        notes.append(f"left out: {len(pickles)} pickle files ({names}; {size / 1e9:.2f} GB), safetensors are there")
    chosen = [file for file in chosen if not file.name.endswith(PICKLES)]
    if not chosen:
        wanted = ", ".join(patterns)
        names = ", ".join(file.name for file in listed[:8]) or "no file"
        raise ModelError(f"no file of {remote.name} matches {wanted}", why=f"it holds {names}", fix="correct --include")
    return chosen, notes


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _check_room(place: Path, wanted: Sequence[RemoteFile], to: Path | None) -> None:
    """Raises: ModelError when what is still to be fetched does not fit the disk."""
    there = 0 if to is None else sum(min(_size(to / file.name), file.size_bytes) for file in wanted)
    needed = sum(file.size_bytes for file in wanted) - there + _FREE_MARGIN_BYTES
    existing = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ModelError(
            f"the disk of {place} has {free / 1e9:.1f} GB free, the download needs {needed / 1e9:.1f} GB",
            fix="free some space, name another disk with --to, or fetch less with --include",
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _verify(folder: Path, wanted: Sequence[RemoteFile]) -> None:
    """Raises: ModelError naming files that are not what the hub has; they are removed, so that the next try works."""
    faults = {file.name: file_fault(folder / file.name, file.name, file.facts(), hashes=True) for file in wanted}
    damaged = {name: fault for name, fault in faults.items() if fault}
    if not damaged:
        return
    for name in damaged:
        path = folder / name
        if path.exists():
            path.resolve().unlink()  # in a cache the name is a link to the content
            path.unlink(missing_ok=True)
    raise ModelError(
        f"{len(damaged)} of {len(wanted)} files did not arrive whole: {'; '.join(list(damaged.values())[:3])}",
        why="they were removed",
        fix="run the same command again: it fetches these files only",
    )


def _record(folder: Path, remote: Remote, commit: str, wanted: Sequence[RemoteFile]) -> None:
    record = {
        "source": remote.hub,
        "name": remote.name,
        "revision": remote.revision,
        "commit": commit,
        "files": {file.name: file.facts() for file in wanted},
    }
    (folder / DOWNLOAD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _clear_errors(remote: Remote) -> Iterator[None]:
    """What went wrong, in one message: not there, no access, no connection."""
    from huggingface_hub import errors

    further = import_modelscope()[1] if remote.hub == "modelscope" else ()
    unreachable: tuple[type[Exception], ...] = (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        *network_errors(),
        *further,
    )
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{remote.name} is gated: its owner must let you in (HTTP {_code(error)})",
            fix="accept its terms on the hub's page, then set HF_TOKEN to a token of that account",
        ) from error
    except (errors.RevisionNotFoundError, errors.RepositoryNotFoundError, errors.EntryNotFoundError) as error:
        raise _not_found(remote, error) from error
    except unreachable as error:
        raise _failed(remote, error) from error


def _not_found(remote: Remote, error: Exception) -> ModelError:
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(
            f"{remote.name} has no revision '{remote.revision}'",
            fix="correct --revision (model_revision); the page of the repository lists its branches and tags",
        )
    kind = "dataset" if remote.is_dataset else "model"
    other = "without --dataset" if remote.is_dataset else "with --dataset"
    return ModelError(
        f"there is no {kind} '{remote.name}' on the hub, or it is private (HTTP {_code(error)})",
        fix=f"check the spelling, case included; for a private one set HF_TOKEN; try {other}, or --source modelscope",
    )


def _failed(remote: Remote, error: Exception) -> ModelError:
    from huggingface_hub import constants

    code = _code(error)
    if code in (401, 403):
        return ModelError(
            f"the hub refuses access to {remote.name} (HTTP {code})",
            fix="set HF_TOKEN to a valid token of an account that may read it",
        )
    first = str(error).strip().splitlines()
    where = constants.ENDPOINT if remote.hub == "huggingface" else "modelscope.cn"
    return ModelError(
        f"'{remote.name}' is neither a local folder nor could it be downloaded from the hub",
        where=where,
        why=f"{type(error).__name__}: {first[0] if first else 'no connection'}",
        fix="check the connection and run the same command again (it goes on where it stopped); set HF_ENDPOINT to a "
        "mirror that you can reach, use --source modelscope, or give the path of a local folder",
    )


def _code(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
