"""Quantized exports: reloaded by plain transformers, held to plain rounding, and refused when they are not that."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import tiny_adapter, tiny_model

from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError, DataError, ModelError
from tunesmith.export import merge
from tunesmith.export.calibration import calibration_rows
from tunesmith.export.proof import prove
from tunesmith.export.weights import _rounded, round_to_nearest
from tunesmith.infer.locate import locate
from tunesmith.infer.session import open_renderer
from tunesmith.model.plain import load_plain_model
from tunesmith.model.quantize_folder import QuantizedForm, form_of, quantize_folder, settled_form
from tunesmith.model.verify import read_model_config
from tunesmith.model.wholeness import as_ids

FORMS = [("torchao", 8), ("torchao", 4), ("bnb", 8), ("bnb", 4)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    tiny_model(folder / "base", tie_word_embeddings=True)
    tiny_adapter(folder / "adapter", folder / "base")
    return folder


def resolved_for(parts: Path, target: Path, *arguments: str):
    argv = [f"export_dir={target}", f"model_name_or_path={parts / 'base'}", f"adapter_name_or_path={parts / 'adapter'}"]
    return resolve([*argv, "infer_dtype=bfloat16", *arguments], verb="export")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Proves in this process; the tasks are collected."""
    found: list[dict[str, Any]] = []

    def in_this_process(task: dict[str, Any], folder: Path) -> dict[str, Any]:
        found.append(json.loads(json.dumps(task)))
        proof = prove(found[-1], folder)
        (folder / "proof.json").write_text(json.dumps(proof))
        return proof

    monkeypatch.setattr(merge, "run_proof", in_this_process)
    return found


@pytest.mark.parametrize(("method", "bits"), FORMS)
def test_a_quantized_export_is_proven_and_loads_in_plain_transformers(
    parts: Path, tmp_path: Path, tasks: list[dict[str, Any]], method: str, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = (f"export_quantization_bit={bits}", f"export_quantization_method={method}")
    assert merge.export(resolved_for(parts, tmp_path / "out", *wanted)) == 0, capsys.readouterr().out
    proof = json.loads((tmp_path / "out" / "proof.json").read_text())
    assert (proof["quantization"]["method"], proof["quantization"]["bits"]) == (method, bits)
    assert 0.3 < proof["packed_weights"]["largest_error_of_rounding"] < 1.5
    assert proof["packed_weights"]["share_of_update"] == pytest.approx(1, abs=0.1)
    assert proof["adapter_effect"]["share_in_folder"] > 0.7
    assert 0 < proof["logprob_difference"]["mean"] <= proof["bounds"]["logprob"]
    assert read_model_config(tmp_path / "out")["quantization_config"]["quant_method"] in ("torchao", "bitsandbytes")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*proof["files_sha256"], "proof.json"])
    assert not (tmp_path / "out" / "plain.part").exists()
    model = load_plain_model(tmp_path / "out", torch.bfloat16)
    assert as_ids(model.generation_config.eos_token_id) == tasks[0]["stop_ids"]


@pytest.fixture(scope="module")
def packed(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A right export in 8 bits of torchao, and its task."""
    target = tmp_path_factory.mktemp("packed") / "out"
    found: list[dict[str, Any]] = []

    def unproven(task: dict[str, Any], folder: Path) -> dict[str, Any]:
        found.append(json.loads(json.dumps(task)))
        return prove(found[-1], folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "run_proof", unproven)
        arguments = ("export_quantization_bit=8", "export_quantization_method=torchao")
        assert merge.export(resolved_for(parts, target, *arguments)) == 0
    return target, found[0]


def _change(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    from safetensors import safe_open

    file = folder / "model.safetensors"
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata()
    weights = load_file(file)
    key = next(key for key in weights if key.startswith(name))
    weights[key] = change(weights[key])
    save_file(weights, file, metadata=metadata)


def test_one_wrong_scale_is_found(packed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed[0], tmp_path / "copy"))
    _change(folder, "model.layers.1.mlp.down_proj._weight_scale", lambda scale: scale * 1.05)
    problems = prove(packed[1], folder)["problems"]
    assert any("are not the merged ones: model.layers.1.mlp.down_proj" in problem for problem in problems)


def test_a_wrong_norm_is_found(packed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed[0], tmp_path / "copy"))
    _change(folder, "model.norm.weight", lambda norm: norm * 1.02)
    assert any(
        "are not the merged ones: model.norm.weight" in problem for problem in prove(packed[1], folder)["problems"]
    )


def test_the_quantized_base_without_the_adapter_is_found(
    parts: Path, packed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """What is packed is right, but of the base: the update that is missing in it shows in every matrix."""
    folder = Path(shutil.copytree(packed[0], tmp_path / "copy"))
    resolved = resolved_for(parts, tmp_path / "out", "export_quantization_bit=8", "export_quantization_method=torchao")
    form = form_of(resolved.config)
    assert form is not None
    quantize_folder(parts / "base", folder, form, [], resolved.config)
    problems = prove(packed[1], folder)["problems"]
    assert any("packed matrices hold less than half of its update" in problem for problem in problems)
    assert any("nearer to the base" in problem for problem in problems)


def test_plain_weights_are_not_taken_for_quantized_ones(
    parts: Path, packed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(parts / "base", tmp_path / "copy"))
    problems = prove(packed[1], folder)["problems"]
    assert any(problem.startswith("not quantized") for problem in problems)


def test_rounding_to_nearest_moves_no_weight_by_more_than_half_a_step() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    for bits, group in ((8, 0), (4, 32), (3, 16)):
        groups = weight.reshape(-1, group or 64)
        step = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        gap = (_rounded(weight, QuantizedForm("gptq", bits, group), torch.float32) - groups).abs()
        assert (gap <= 0.5001 * step).all()
        assert gap.max() > 0.4 * step.min()
    for levels in ("nf4", "fp4"):
        rounded = _rounded(weight, QuantizedForm("bnb", 4, 64, levels), torch.float32)
        assert len(torch.unique(rounded[0])) <= 16
        assert (rounded - weight).square().mean().sqrt() < 0.15


def test_the_yardstick_leaves_the_output_head_as_it_is(parts: Path) -> None:
    model = load_plain_model(parts / "base", torch.float32)
    head = model.get_output_embeddings().weight.clone()
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    round_to_nearest(model, QuantizedForm("bnb", 8, 0, rounds_inputs=True), torch.bfloat16)
    assert torch.equal(model.get_output_embeddings().weight, head)
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, before)
    assert len(model.model.layers[0].mlp.up_proj._forward_pre_hooks) == 1
    assert len(model.get_output_embeddings()._forward_pre_hooks) == 0


def calibration(parts: Path, rows: Path, *arguments: str):
    named = (f"export_quantization_dataset={rows}", "export_quantization_bit=4", *arguments)
    resolved = resolved_for(parts, parts / "unused", *named)
    return calibration_rows(resolved.config, open_renderer(resolved.config, locate(resolved)), resolved.config_dir)


def test_calibration_rows_are_drawn_with_the_seed_and_counted(parts: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"row {index} is short"}) + "\n" for index in range(30)))
    found = calibration(parts, rows, "export_quantization_nsamples=8", "export_quantization_maxlen=24")
    assert (len(found.rows), found.num_found) == (8, 30)
    assert all(2 <= len(row) <= 24 for row in found.rows)
    again = calibration(parts, rows, "export_quantization_nsamples=8", "export_quantization_maxlen=24")
    assert again.rows == found.rows
    other = calibration(parts, rows, "export_quantization_nsamples=8", "export_quantization_maxlen=24", "seed=1")
    assert other.rows != found.rows
    assert found.describe().startswith("calibrating on 8 of 30 pieces of ")


def test_conversations_calibrate_in_the_models_template(parts: Path, tmp_path: Path) -> None:
    rows = tmp_path / "chats.json"
    rows.write_text(json.dumps([{"instruction": "Who are you?", "output": "I am Ada."}] * 2))
    found = calibration(parts, rows)
    assert found.rows[0][0] == 1, "<|im_start|> opens the first turn"
    with pytest.raises(DataError):
        calibration(parts, tmp_path / "nowhere.json")


class StandIn:
    """gptqmodel's three calls, as its 7.7 documents them; writes what it was given, unquantized."""

    asked: ClassVar[dict[str, Any]] = {}

    @classmethod
    def load(cls, folder: str, settings: Any, **arguments: Any) -> StandIn:
        cls.asked = {"folder": folder, "settings": settings, **arguments}
        return cls()

    def quantize(self, samples: list[dict[str, Any]], **arguments: Any) -> None:
        self.asked.update(samples=samples, **arguments)

    def save(self, folder: str, max_shard_size: str) -> None:
        self.asked["max_shard_size"] = max_shard_size
        shutil.copyfile(Path(self.asked["folder"]) / "model.safetensors", Path(folder) / "model.safetensors")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    module = types.ModuleType("gptqmodel")
    module.GPTQModel, module.GPTQConfig, module.AWQConfig = StandIn, dict, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gptqmodel", module)
    monkeypatch.setitem(sys.modules, "optimum", types.ModuleType("optimum"))
    return StandIn


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_gptq_and_awq_get_rows_bits_and_a_group_size_that_divides(
    parts: Path, tmp_path: Path, stand_in: type[StandIn], method: str
) -> None:
    config = resolved_for(parts, tmp_path, "export_quantization_bit=4", f"export_quantization_method={method}",
                          "export_quantization_dataset=x").config  # fmt: skip
    form = form_of(config)
    assert form is not None
    form = settled_form(form, load_plain_model(parts / "base", torch.float32))
    assert form == QuantizedForm(method, 4, 64)  # 64 wide and 128 wide layers
    quantize_folder(parts / "base", tmp_path, form, [[1, 2, 3], [4, 5]], config)
    assert stand_in.asked["settings"] == {"bits": 4, "group_size": 64}
    assert stand_in.asked["samples"][1] == {"input_ids": [4, 5], "attention_mask": [1, 1]}
    assert (stand_in.asked["max_shard_size"], stand_in.asked["trust_remote_code"]) == ("5GB", False)
    assert (tmp_path / "model.safetensors").is_file()


def test_a_library_that_refuses_is_named(
    parts: Path, tmp_path: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("this layer is too narrow")

    monkeypatch.setattr(stand_in, "quantize", refuse)
    config = resolved_for(parts, tmp_path).config
    with pytest.raises(ModelError, match="could not be quantized by gptq in 4 bits") as caught:
        quantize_folder(parts / "base", tmp_path, QuantizedForm("gptq", 4, 64), [[1, 2]], config)
    assert "too narrow" in caught.value.why


def test_without_its_package_a_method_names_the_extra(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gptqmodel", None)
    arguments = ("export_quantization_bit=4", "export_quantization_dataset=x")
    with pytest.raises(ModelError) as caught:
        merge.export(resolved_for(parts, tmp_path / "out", *arguments))
    assert "tunesmith[gptq]" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("export_quantization_bit=4",), "export_quantization_dataset is not set"),
        (("export_quantization_bit=8", "export_quantization_method=awq"), "awq has no 8 bits"),
        (("export_quantization_bit=3", "export_quantization_method=bnb"), "bnb has no 3 bits"),
    ],
)
def test_what_cannot_be_quantized_is_refused_with_the_settings(
    parts: Path, arguments: tuple[str, ...], what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved_for(parts, parts / "unused", *arguments)
    assert what in caught.value.what
