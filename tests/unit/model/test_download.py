"""Downloads from a local hub: verified, resumed, refused with a reason. One runs as the command that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from tests.fake_hub import TOKEN, FakeHub, Repo
from tests.tiny import tiny_model

from tunesmith.cli.download import read_arguments
from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.download import choose_files, download
from tunesmith.model.hub_sources import Remote, RemoteFile
from tunesmith.model.load import model_folder
from tunesmith.model.verify import verify_model_folder
from tunesmith.model.wholeness import check_folder, failures

NAME = "acme/tiny"
CHUNK_BYTES = 1 << 16


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def hub(model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    with FakeHub() as server:
        server.repos[NAME] = Repo(dict(model_files))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        monkeypatch.setattr("tunesmith.model.hub_sources.RESUMED_BYTES", 100_000)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)
        for name in ("HF_TOKEN", "USE_MODELSCOPE_HUB"):
            monkeypatch.delenv(name, raising=False)
        yield server


def fetch(to: Path | None, **asked: object) -> tuple[Path, list[str]]:
    said: list[str] = []
    folder = download(Remote(NAME, **asked), to, say=said.append)  # type: ignore[arg-type]
    return folder, said


def problem(**asked: object) -> str:
    with pytest.raises(ModelError) as caught:
        fetch(None, **asked)
    return caught.value.render()


def test_a_download_is_whole_recorded_and_verified(hub: FakeHub, tmp_path: Path) -> None:
    folder, said = fetch(tmp_path / "to")
    assert len(verify_model_folder(folder)) == 1
    record = json.loads((folder / "download.json").read_text())
    assert (record["name"], record["source"], record["commit"]) == (NAME, "huggingface", hub.repos[NAME].commit)
    assert set(record["files"]) == set(hub.repos[NAME].files)
    assert len(record["files"]["model.safetensors"]["sha256"]) == 64
    assert len(record["files"]["config.json"]["git_sha1"]) == 40
    assert said[-1].startswith("verified")
    assert failures(check_folder(folder, hashes=True)) == []


@pytest.mark.parametrize("to_folder", [True, False])
def test_a_download_that_broke_off_goes_on_where_it_stopped(hub: FakeHub, tmp_path: Path, to_folder: bool) -> None:
    weights = hub.repos[NAME].files["model.safetensors"]
    hub.cut_after["model.safetensors"] = len(weights) // 2
    to = tmp_path / "to" if to_folder else None
    with pytest.raises(ModelError, match="could it be downloaded") as caught:
        fetch(to)
    assert "goes on where it stopped" in caught.value.fix
    hub.cut_after.clear()
    hub.requests.clear()
    folder, _ = fetch(to)
    assert (folder / "model.safetensors").read_bytes() == weights
    ranges = [
        headers.get("Range")
        for method, path, headers in hub.requests
        if path.endswith("model.safetensors") and method == "GET"
    ]
    assert ranges == [f"bytes={len(weights) // 2 // CHUNK_BYTES * CHUNK_BYTES}-"]
    hub.requests.clear()
    fetch(to)
    assert [path for method, path, _ in hub.requests if method == "GET" and "resolve" in path] == []
    assert list(folder.rglob("*.part")) == []


def test_a_file_with_other_content_is_removed_and_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.spoil.add("model.safetensors")
    with pytest.raises(ModelError, match=r"1 of \d+ files did not arrive whole: model.safetensors"):
        fetch(tmp_path / "to")
    assert not (tmp_path / "to" / "model.safetensors").exists()
    hub.spoil.clear()
    folder, _ = fetch(tmp_path / "to")
    assert failures(check_folder(folder, hashes=True)) == []


def test_a_model_named_by_its_hub_name_is_loaded_and_not_asked_for_again(hub: FakeHub, tmp_path: Path) -> None:
    config = Config(model_name_or_path=NAME, cache_dir=str(tmp_path / "cache"))
    folder = model_folder(config)
    assert verify_model_folder(folder)
    num_requests = len(hub.requests)
    assert model_folder(config) == folder
    assert len(hub.requests) == num_requests


def test_pickles_are_left_out_with_a_note(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos[NAME].files["pytorch_model.bin"] = b"\x80\x04pickle"
    folder, said = fetch(tmp_path / "to")
    assert any("left out: 1 pickle files (pytorch_model.bin" in line for line in said)
    assert not (folder / "pytorch_model.bin").exists()
    assert hub.sent("pytorch_model.bin") == 0


def test_a_repository_of_pickles_only_is_refused(hub: FakeHub) -> None:
    files = hub.repos[NAME].files
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    assert "as pickles only (pytorch_model.bin)" in problem()
    assert hub.sent("config.json") == 0


@pytest.mark.parametrize("code", [401, 403])
def test_a_gated_repository_says_what_to_do(hub: FakeHub, tmp_path: Path, code: int) -> None:
    hub.repos[NAME].gate = code
    text = problem()
    assert f"is gated: its owner must let you in (HTTP {code})" in text
    assert "HF_TOKEN" in text
    folder, _ = fetch(tmp_path / "to", token=TOKEN)
    assert verify_model_folder(folder)


def test_what_is_not_there_is_said(hub: FakeHub) -> None:
    assert "has no revision 'v9'" in problem(revision="v9")
    text = problem(is_dataset=True)
    assert "there is no dataset 'acme/tiny'" in text
    assert "without --dataset" in text
    assert "no file of acme/tiny matches *.gguf" in problem(include=("*.gguf",))
    with pytest.raises(ModelError, match="is no repository's name"):
        download(Remote("tiny"), None)


def test_no_connection_is_said(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    text = problem()
    assert "HF_ENDPOINT" in text
    assert "ConnectError" in text


def test_a_full_disk_is_seen_before_anything_is_fetched(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**8))
    assert "has 0.1 GB free, the download needs 0.2 GB" in problem()
    assert hub.sent("config.json") == 0


def test_include_and_dataset_choose_files(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["acme/rows"] = Repo({"a.jsonl": b"{}\n", "b/c.jsonl": b"{}\n", "x.bin": b"1"}, kind="datasets")
    folder = download(Remote("acme/rows", is_dataset=True, include=("*.jsonl",)), tmp_path / "rows")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.jsonl")}
    assert names == {"a.jsonl", "b/c.jsonl"}
    assert not (folder / "x.bin").exists()


def test_a_file_name_with_brackets_is_no_pattern() -> None:
    listed = [RemoteFile("a[1].safetensors", 8), RemoteFile("config.json", 2)]
    assert [file.name for file in choose_files(Remote(NAME), listed)[0]] == ["a[1].safetensors", "config.json"]


class StandInApi:
    """ModelScope's client, as its package 1.40 documents it."""

    files: ClassVar[dict[str, bytes]] = {}

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def get_model_files(self, name: str, revision: str, recursive: bool) -> list[dict[str, object]]:
        from hashlib import sha256

        assert (name, revision, recursive) == (NAME, "master", True)
        found = [
            {"Path": path, "Size": len(content), "Sha256": sha256(content).hexdigest(), "Type": "blob"}
            for path, content in self.files.items()
        ]
        return [*found, {"Path": "sub", "Size": 0, "Type": "tree"}]


def test_modelscope_is_read_through_its_client(
    model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import types

    asked: ClassVar[dict[str, object]] = {}

    def snapshot_download(name: str, **arguments: object) -> str:
        asked.update(arguments)
        folder = Path(str(arguments["local_dir"]))
        folder.mkdir(parents=True, exist_ok=True)
        for path in arguments["allow_patterns"]:  # type: ignore[attr-defined]
            (folder / path).write_bytes(model_files[path])
        return str(folder)

    errors, api, package = (types.ModuleType(f"modelscope{end}") for end in (".hub.errors", ".hub.api", ""))
    hub = types.ModuleType("modelscope.hub")
    errors.NotExistError = type("NotExistError", (Exception,), {})  # type: ignore[attr-defined]
    hub.errors, api.HubApi, package.snapshot_download = errors, StandInApi, snapshot_download  # type: ignore[attr-defined]
    for module in (errors, api, package, hub):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(StandInApi, "files", {**model_files, "weights.bin": b"1"})
    folder = download(Remote(NAME, hub="modelscope", token="ms"), tmp_path / "to")
    assert failures(check_folder(folder, hashes=True)) == []
    assert (asked["revision"], asked["repo_type"], asked["token"]) == ("master", "model", "ms")
    assert json.loads((folder / "download.json").read_text())["source"] == "modelscope"


def test_modelscope_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError) as caught:
        download(Remote(NAME, hub="modelscope"), None)
    assert 'pip install "tunesmith[modelscope]"' in caught.value.fix


def test_the_command_line_is_read() -> None:
    given = read_arguments(
        ["a/b", "--to", "d", "--include=*.json,*.txt", "--include", "x", "--dataset", "--source", "ms"]
    )
    assert (given.name, given.include, given.is_dataset) == ("a/b", ["*.json", "*.txt", "x"], True)
    assert given.values == {"--to": "d", "--source": "ms"}
    for wrong in ([], ["a/b", "--too", "d"], ["a/b", "--to"], ["a/b", "c/d"], ["a/b", "--source", "elsewhere"]):
        with pytest.raises(ConfigError):
            read_arguments(wrong)


def test_the_command_downloads_from_the_mirror_in_the_environment(
    model_files: dict[str, bytes], tmp_path: Path
) -> None:
    with FakeHub() as server:
        server.repos[NAME] = Repo(dict(model_files), gate=401)
        env = {**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "tunesmith", "download", NAME, "--to", str(tmp_path / "to")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "to")), done.stderr
        command[4] = "acme/tini"
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        assert "there is no model 'acme/tini'" in done.stderr
        assert "Traceback" not in done.stderr
