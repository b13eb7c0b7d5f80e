"""The two hubs that files come from: what they list, and how their files get here.

The hubs' own clients do the work. One thing huggingface_hub 2.4 does not do: go on with a file of many GB after the
process has ended. So large files are fetched here, with its own transfer function and a part that stays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.model.hubs import import_modelscope, modelscope_token

RESUMED_BYTES = 10 * 10**6
_PAGE_SIZE = 100


@dataclass(frozen=True)
class Remote:
    """What is asked of a hub.

    Attributes:
        revision: branch, tag or commit; None: the hub's main branch.
        include: patterns of file names; empty: what a model needs, or everything of a dataset.
    """

    name: str
    hub: str = "huggingface"
    revision: str | None = None
    include: tuple[str, ...] = ()
    is_dataset: bool = False
    token: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    """One file on the hub, with the hashes that the hub has of it: sha256 of large files, git's id of small ones."""

    name: str
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None

    def facts(self) -> dict[str, Any]:
        """As it is recorded in download.json."""
        found = {"size_bytes": self.size_bytes, "sha256": self.sha256, "git_sha1": self.git_sha1}
        return {key: value for key, value in found.items() if value is not None}


class HuggingFaceSource:
    """The Hugging Face hub, or a mirror of it."""

    def __init__(self, remote: Remote, cache_dir: str | None) -> None:
        self._remote, self._cache_dir = remote, cache_dir
        self._kind = "dataset" if remote.is_dataset else "model"

    def listing(self) -> tuple[str, list[RemoteFile]]:
        """(commit, files) of the revision."""
        from huggingface_hub import HfApi

        api = HfApi(token=self._remote.token)
        info: Any = api.repo_info(
            self._remote.name, repo_type=self._kind, revision=self._remote.revision, files_metadata=False
        )
        entries = api.list_repo_tree(self._remote.name, repo_type=self._kind, revision=info.sha, recursive=True)
        files: list[Any] = [entry for entry in entries if hasattr(entry, "blob_id")]
        return str(info.sha), [
            RemoteFile(file.path, file.size, file.lfs.sha256 if file.lfs else None, None if file.lfs else file.blob_id)
            for file in files
        ]

    def cache(self) -> Path:
        """Where files go when no folder is named."""
        from huggingface_hub import constants

        return Path(self._cache_dir or constants.HF_HUB_CACHE)

    def fetch(self, commit: str, files: Sequence[RemoteFile], to: Path | None) -> Path:
        """Transfer what is not there yet: large files here, resumed, and the rest through the client."""
        from huggingface_hub import snapshot_download

        for file in files:
            if file.sha256 is not None and file.size_bytes >= RESUMED_BYTES:
                target = self._storage() / "blobs" / file.sha256 if to is None else to / file.name
                self._resume(commit, file, target)
        folder = snapshot_download(
            self._remote.name,
            repo_type=self._kind,
            revision=commit,
            local_dir=to,
            cache_dir=self._cache_dir,
            token=self._remote.token,
            allow_patterns=[_literal(file.name) for file in files],
        )
        if to is None:  # what the client writes when it is asked for a branch, so that the branch is found offline
            reference = self._storage() / "refs" / (self._remote.revision or "main")
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit, encoding="utf-8")
        return Path(folder)

    def _storage(self) -> Path:
        """Where the client's cache keeps the repository."""
        from huggingface_hub.file_download import repo_folder_name

        return self.cache() / repo_folder_name(repo_id=self._remote.name, repo_type=self._kind)

    def _resume(self, commit: str, file: RemoteFile, target: Path) -> None:
        """Fetch one file, from where an earlier try broke off; its part is named after its content."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        if target.is_file() and target.stat().st_size == file.size_bytes:
            return  # `download` looks into it afterwards
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{str(file.sha256)[:12]}.part")
        url = hf_hub_url(self._remote.name, file.name, repo_type=self._kind, revision=commit)
        headers = build_hf_headers(token=self._remote.token)
        with part.open("r+b" if part.exists() else "w+b") as stream:
            there = stream.seek(0, os.SEEK_END)
            http_get(
                url,
                stream,
                resume_size=there,
                headers=headers,
                expected_size=file.size_bytes,
                displayed_filename=file.name,
            )
        os.replace(part, target)


class ModelScopeSource:
    """The ModelScope hub, through its own client."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._api_type, _ = import_modelscope()
        self._token = modelscope_token(remote.token)

    def listing(self) -> tuple[str, list[RemoteFile]]:
        """(revision, files): ModelScope names the revision, and a sha256 for every file."""
        named = self._remote.revision
        revision = "master" if named in (None, "main") else str(named)
        api = self._api_type(token=self._token)
        if self._remote.is_dataset:
            entries = self._dataset_entries(api, revision)
        else:
            entries = api.get_model_files(self._remote.name, revision=revision, recursive=True)
        files = [entry for entry in entries if entry.get("Type") != "tree"]
        return revision, [RemoteFile(file["Path"], int(file["Size"]), file.get("Sha256") or None) for file in files]

    def _dataset_entries(self, api: Any, revision: str) -> list[dict[str, Any]]:
        """All pages of a dataset's list of files."""
        entries: list[dict[str, Any]] = []
        while True:
            number = len(entries) // _PAGE_SIZE + 1
            page = api.get_dataset_files(
                self._remote.name, revision=revision, recursive=True, page_number=number, page_size=_PAGE_SIZE
            )
            entries += page
            if len(page) < _PAGE_SIZE:
                return entries

    def cache(self) -> Path:
        """Where files go when no folder is named."""
        return Path.home()

    def fetch(self, commit: str, files: Sequence[RemoteFile], to: Path | None) -> Path:
        """Transfer what is not there yet; its client resumes by itself."""
        from modelscope import snapshot_download

        folder = snapshot_download(
            self._remote.name,
            revision=commit,
            local_dir=None if to is None else str(to),
            allow_patterns=[_literal(file.name) for file in files],
            repo_type="dataset" if self._remote.is_dataset else "model",
            token=self._token,
        )
        return Path(folder)


def _literal(name: str) -> str:
    """A file name as a pattern that matches it alone."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def cached_folder(remote: Remote, cache_dir: str | None) -> Path | None:
    """The folder of an earlier download in the hub client's cache, whole or not; None when there is none."""
    if remote.hub == "modelscope":
        return None  # its client looks there itself
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                remote.name,
                revision=remote.revision,
                cache_dir=cache_dir,
                local_files_only=True,
                allow_patterns=["*.json"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return None
