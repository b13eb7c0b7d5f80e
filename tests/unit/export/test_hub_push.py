"""A proven export goes to a hub, whole and with a card; an unproven one, or one without a token, does not."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from tests.fake_hub import TOKEN, FakeHub
from tests.tiny import tiny_adapter, tiny_model

from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError, ExportError
from tunesmith.export import merge
from tunesmith.export.hub import licence_of
from tunesmith.export.proof import prove

NAME = "acme/tuned"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    tiny_model(folder / "base")
    (folder / "base" / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# base\n")
    adapter = tiny_adapter(folder / "adapter", folder / "base")
    (adapter / "run.yaml").write_text("stage: sft\nfinetuning_type: lora\ndataset: [identity]\n")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    with FakeHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
        for name in ("HF_TOKEN", "USE_MODELSCOPE_HUB", "MODELSCOPE_API_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        yield server


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def proving(task: dict[str, Any], folder: Path) -> dict[str, Any]:
        proof = prove(json.loads(json.dumps(task)), folder)
        (folder / "proof.json").write_text(json.dumps(proof))
        return proof

    monkeypatch.setattr(merge, "run_proof", proving)


def export(parts: Path, target: Path, *arguments: str) -> int:
    named = (
        f"model_name_or_path={parts / 'base'}",
        f"adapter_name_or_path={parts / 'adapter'}",
        f"export_dir={target}",
    )
    return merge.export(resolve([*named, f"export_hub_model_id={NAME}", *arguments], verb="export"))


def test_a_proven_export_is_pushed_whole_with_a_card(
    parts: Path, tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(parts, tmp_path / "out", f"hub_token={TOKEN}", "export_hub_private=true") == 0
    repo = hub.repos[NAME]
    proof = json.loads(repo.files["proof.json"])
    assert repo.private
    assert set(repo.files) == {path.name for path in (tmp_path / "out").iterdir()}
    for name, digest in proof["files_sha256"].items():
        assert hashlib.sha256(repo.files[name]).hexdigest() == digest
    assert f"pushed to {hub.url}/{NAME}/commit/" in capsys.readouterr().err
    assert any(path.startswith("/blobs/") for method, path, _ in hub.requests if method == "PUT"), "weights go as LFS"


def test_the_card_tells_base_adapter_data_figures_and_licence(parts: Path, tmp_path: Path, hub: FakeHub) -> None:
    shutil.copytree(parts / "adapter", tmp_path / "my-run")
    _mark_as_run(parts, tmp_path / "my-run")
    assert export(parts, tmp_path / "out", f"hub_token={TOKEN}", f"adapter_name_or_path={tmp_path / 'my-run'}") == 0
    card = hub.repos[NAME].files["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    proof = json.loads(hub.repos[NAME].files["proof.json"])
    assert (front["license"], front["library_name"]) == ("apache-2.0", "transformers")
    assert "| Adapters merged | my-run |" in card
    assert "| Data | identity |" in card
    assert "| Method | sft, lora |" in card
    assert f"{proof['held_out_loss']['after']:.4f}" in card
    assert f"{proof['greedy_agreement']:.1%}" in card
    assert str(tmp_path) not in card, "where it lay on a disk is nobody's business"


def _mark_as_run(parts: Path, run: Path) -> None:
    from tunesmith.infer.locate import locate
    from tunesmith.infer.session import open_renderer

    named = [f"model_name_or_path={parts / 'base'}", f"adapter_name_or_path={parts / 'adapter'}", "export_dir=e"]
    resolved = resolve(named, verb="export")
    contract = open_renderer(resolved.config, locate(resolved)).contract()
    (run / "render_contract.json").write_text(json.dumps(contract, ensure_ascii=False))


def test_an_export_whose_proof_fails_is_not_pushed(
    parts: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        merge,
        "run_proof",
        lambda task, folder: {**prove(json.loads(json.dumps(task)), folder), "problems": ["planted"]},
    )
    assert export(parts, tmp_path / "out", f"hub_token={TOKEN}") == 1
    assert hub.requests == []


def test_without_a_token_nothing_is_begun(parts: Path, tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(ExportError, match="no token for Hugging Face") as caught:
        export(parts, tmp_path / "out")
    assert "HF_TOKEN" in caught.value.fix
    with pytest.raises(ExportError, match="no repository's name"):
        export(parts, tmp_path / "out", "export_hub_model_id=tuned")
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_refuses_leaves_the_export_in_place(parts: Path, tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(ExportError, match="could not be pushed") as caught:
        export(parts, tmp_path / "out", "hub_token=hf_wrong")
    assert str(tmp_path / "out") in caught.value.fix
    assert json.loads((tmp_path / "out" / "proof.json").read_text())["problems"] == []


def test_a_second_push_goes_to_the_same_repository(parts: Path, tmp_path: Path, hub: FakeHub) -> None:
    for _ in range(2):
        assert export(parts, tmp_path / "out", f"hub_token={TOKEN}") == 0
    assert list(hub.repos) == [NAME]


class StandInApi:
    """ModelScope's client, as its package 1.40 documents it."""

    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def create_repo(self, repo_id: str, **arguments: Any) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, **arguments}))

    def upload_folder(self, repo_id: str, folder_path: str, **arguments: Any) -> None:
        files = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append(("upload_folder", {"repo_id": repo_id, "files": files, **arguments}))


def test_modelscope_gets_the_export_through_its_client(
    parts: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors, api, package, of_hub = (
        types.ModuleType(f"modelscope{end}") for end in (".hub.errors", ".hub.api", "", ".hub")
    )
    of_hub.errors, api.HubApi = errors, StandInApi  # type: ignore[attr-defined]
    for module in (errors, api, package, of_hub):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(StandInApi, "calls", [])
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    with pytest.raises(ExportError, match="no token for ModelScope"):
        export(parts, tmp_path / "out")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms")
    assert export(parts, tmp_path / "out") == 0
    (_, created), (_, uploaded) = StandInApi.calls
    assert (created["repo_id"], created["visibility"], created["exist_ok"], created["token"]) == (
        NAME,
        "public",
        True,
        "ms",
    )
    assert {"README.md", "model.safetensors", "proof.json"} <= set(uploaded["files"])
    assert (uploaded["repo_type"], uploaded["use_cache"]) == ("model", False)
    assert f"pushed to https://modelscope.cn/models/{NAME}" in capsys.readouterr().err
    assert hub.requests == []


def test_a_licence_is_inherited_only_when_the_base_names_one(parts: Path, tmp_path: Path) -> None:
    assert licence_of(parts / "base") == {"license": "apache-2.0"}
    assert licence_of(tmp_path) == {}
    (tmp_path / "README.md").write_text("# no front matter\n---\nlicense: mit\n---\n")
    assert licence_of(tmp_path) == {}


def test_an_unknown_hub_is_refused_with_the_settings(parts: Path) -> None:
    with pytest.raises(ConfigError):
        resolve(["export_dir=e", f"model_name_or_path={parts / 'base'}", "export_hub=elsewhere"], verb="export")
