"""Eight ways to damage an export, each planted at the place where it happens: the proof must fail with its name.

On a Llama and on a Gemma 2 with everything that exporters stumble over. docs/export.md lists the same eight.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import tiny_adapter, tiny_model
from tests.tiny_gemma import END_OF_TURN, tiny_gemma

from tunesmith.config.resolve import resolve
from tunesmith.errors import ExportError
from tunesmith.export import merge, write
from tunesmith.export.proof import main as proof_main
from tunesmith.export.proof import prove
from tunesmith.model.wholeness import check_folder, failures

FAMILIES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "llama": (lambda path: tiny_model(path, tie_word_embeddings=True), "chatml"),
    "gemma2": (tiny_gemma, "gemma2"),
}


class Parts(NamedTuple):
    """A right export of one family, and what made it."""

    base: Path
    adapter: Path
    folder: Path
    task: dict[str, Any]
    settings: list[str]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    make, template = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    base = make(folder / "base")
    adapter = tiny_adapter(folder / "adapter", base)
    settings = [f"model_name_or_path={base}", f"adapter_name_or_path={adapter}", f"template={template}"]
    task: dict[str, Any] = {}
    assert _export(settings, folder / "right", task) == 0
    return Parts(base, adapter, folder / "right", task, settings)


def _export(settings: list[str], target: Path, task_out: dict[str, Any] | None = None) -> int:
    """Export in this process; the proof's task is kept in `task_out`."""

    def in_this_process(task: dict[str, Any], folder: Path) -> dict[str, Any]:
        task = json.loads(json.dumps(task))
        if task_out is not None:
            task_out.update(task)
        (folder / "task.tmp").write_text(json.dumps(task))
        shutil.move(folder / "task.tmp", folder.parent / "task.json")
        proof_main([str(folder.parent / "task.json"), str(folder)])
        return json.loads((folder / "proof.json").read_text())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "run_proof", in_this_process)
        return merge.export(resolve([*settings, f"export_dir={target}", "infer_dtype=float32"], verb="export"))


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _config(folder: Path, name: str = "config.json", **changes: Any) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **changes}))


def _empty_tensors(folder: Path, parts: Parts) -> None:
    """What a save of sharded weights leaves that were not gathered."""

    def empty(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.endswith("up_proj.weight")]:
            weights[name] = torch.empty(0)

    _weights(folder, empty)


def _adapter_not_applied(folder: Path, parts: Parts) -> None:
    shutil.copyfile(parts.base / "model.safetensors", folder / "model.safetensors")


def _wrong_base(folder: Path, parts: Parts) -> None:
    """The same adapter on other weights: norms and embeddings, which no adapter touches, give it away."""

    def other(weights: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(7)
        for name, tensor in weights.items():
            weights[name] = tensor + 0.05 * torch.randn(tensor.shape, generator=generator)

    _weights(folder, other)


def _quantized_base(folder: Path, parts: Parts) -> None:
    _config(folder, quantization_config={"quant_method": "fp8", "activation_scheme": "dynamic", "dequantize": True})


def _tied_head_overwritten(folder: Path, parts: Parts) -> None:
    def untie(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    _weights(folder, untie)
    _config(folder, tie_word_embeddings=False)


def _tokenizer_missing(folder: Path, parts: Parts) -> None:
    (folder / "tokenizer.json").unlink()


def _template_missing(folder: Path, parts: Parts) -> None:
    (folder / "chat_template.jinja").unlink()


def _wrong_stop_token(folder: Path, parts: Parts) -> None:
    _config(folder, "generation_config.json", eos_token_id=3)


SABOTAGES: dict[str, Callable[[Path, Parts], None]] = {
    "empty tensors": _empty_tensors,
    "adapter not applied": _adapter_not_applied,
    "wrong base": _wrong_base,
    "quantized base": _quantized_base,
    "tied head overwritten": _tied_head_overwritten,
    "tokenizer missing": _tokenizer_missing,
    "chat template missing": _template_missing,
    "wrong stop token": _wrong_stop_token,
}
# what the files alone give away, without loading the model
SEEN_BY_VERIFY = ("empty tensors", "tokenizer missing", "chat template missing", "wrong stop token")


def test_the_right_export_of_an_awkward_family_is_proven(parts: Parts) -> None:
    proof = json.loads((parts.folder / "proof.json").read_text())
    assert proof["problems"] == []
    assert (proof["num_prompts_equal"], proof["greedy_agreement"], proof["num_equal_answers"]) == (8, 1.0, 8)
    assert proof["adapter_effect"]["share_in_folder"] == pytest.approx(1, abs=1e-3)
    assert failures(check_folder(parts.folder, hashes=True)) == []


def test_a_gemma_stops_at_the_end_of_the_turn(parts: Parts) -> None:
    if parts.base.parent.name.startswith("llama"):
        assert parts.task["stop_ids"][0] == 2
        return
    assert END_OF_TURN in parts.task["stop_ids"]
    assert parts.task["prompts"][0]["ids"][0] == 2, "the begin token stands in front, once"
    assert parts.task["prompts"][0]["ids"].count(2) == 1


def test_all_eight_are_planted() -> None:
    assert len(SABOTAGES) == 8


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotage_fails_the_proof_by_its_name(parts: Parts, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(parts.folder, tmp_path / "copy"))
    SABOTAGES[name](folder, parts)
    (tmp_path / "task.json").write_text(json.dumps(parts.task))
    assert proof_main([str(tmp_path / "task.json"), str(folder)]) == 1
    problems = json.loads((folder / "proof.json").read_text())["problems"]
    assert any(problem.startswith(name) for problem in problems), problems


@pytest.mark.parametrize("name", SABOTAGES)
def test_verify_sees_it_in_a_proven_folder(parts: Parts, tmp_path: Path, name: str) -> None:
    """Against the hashes of the proof all of them; by the files alone those that need no model."""
    folder = Path(shutil.copytree(parts.folder, tmp_path / "copy"))
    SABOTAGES[name](folder, parts)
    assert any(fault.startswith("recorded files") for fault in failures(check_folder(folder, hashes=True)))
    if name in SEEN_BY_VERIFY:
        assert failures(check_folder(folder)) != []


def test_a_merge_that_leaves_the_adapter_out_is_not_put_in_place(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_merged", lambda config, located: _bare(config))
    assert _export(parts.settings, tmp_path / "out") == 1
    problems = json.loads((tmp_path / "out.failed" / "proof.json").read_text())["problems"]
    assert any(problem.startswith("adapter not applied") for problem in problems)
    assert not (tmp_path / "out").exists()


def _bare(config: Any) -> Any:
    from tunesmith.model.load import load_model

    return load_model(config, dtype=torch.float32, for_training=False)


def test_a_run_that_recorded_another_base_is_refused(parts: Parts, tmp_path: Path) -> None:
    run = Path(shutil.copytree(parts.adapter, tmp_path / "run"))
    (run / "base.json").write_text(json.dumps({"base_weights": "sha256:" + "0" * 64}))
    _contract(run, parts)
    settings = [parts.settings[0], f"adapter_name_or_path={run}", parts.settings[2]]
    with pytest.raises(ExportError, match="wrong base") as caught:
        _export(settings, tmp_path / "out")
    assert caught.value.exit_code == 2
    (run / "base.json").write_text(json.dumps({"base_weights": _fingerprint(parts.base)}))
    assert _export(settings, tmp_path / "out") == 0


def _contract(run: Path, parts: Parts) -> None:
    """What marks a folder as a run's: its render contract."""
    from tunesmith.infer.locate import locate
    from tunesmith.infer.session import open_renderer

    resolved = resolve([*parts.settings, "export_dir=e"], verb="export")
    renderer = open_renderer(resolved.config, locate(resolved))
    (run / "render_contract.json").write_text(json.dumps(renderer.contract(), ensure_ascii=False))


def _fingerprint(folder: Path) -> str:
    from tunesmith.model.fingerprint import weights_fingerprint

    return weights_fingerprint(folder)


def test_a_quantized_base_is_refused_before_anything_is_written(parts: Parts, tmp_path: Path) -> None:
    base = Path(shutil.copytree(parts.base, tmp_path / "base"))
    _config(base, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ExportError, match="nothing is merged into it"):
        _export([f"model_name_or_path={base}", *parts.settings[1:]], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_one_matrix_of_zeros_is_found(parts: Parts, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parts.folder, tmp_path / "copy"))
    name = "model.layers.0.mlp.up_proj.weight"
    _weights(folder, lambda weights: weights[name].zero_())
    problems = prove(parts.task, folder)["problems"]
    assert any(f"are not the merged ones: {name}" in problem for problem in problems)
    assert any(check.name == "zeros" and name in check.detail for check in check_folder(folder))
