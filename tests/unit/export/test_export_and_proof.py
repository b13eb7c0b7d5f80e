"""Export of tiny models, and the proof: it must hold for a right export and fail for every planted fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests.tiny import tiny_adapter, tiny_model

from tunesmith.config.resolve import resolve
from tunesmith.errors import ExportError, ModelError
from tunesmith.export import merge
from tunesmith.export.heldout import held_out_rows
from tunesmith.export.proof import PROMPTS, make_task, prove
from tunesmith.infer.locate import locate
from tunesmith.infer.session import open_renderer
from tunesmith.model.adapters import merge_adapters
from tunesmith.model.plain import load_plain_model


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A folder with `base`, `adapter` and `second` (another adapter on the same base)."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_model(folder / "base", tie_word_embeddings=True)
    tiny_adapter(folder / "adapter", folder / "base")
    tiny_adapter(folder / "second", folder / "base", seed=5)
    return folder


def resolved_for(parts: Path, export_dir: Path, *arguments: str, adapters: str = "adapter"):
    named = ",".join(str(parts / name) for name in adapters.split(",") if name)
    argv = [f"export_dir={export_dir}", *arguments]
    if not any(argument.startswith("model_name_or_path=") for argument in arguments):
        argv.append(f"model_name_or_path={parts / 'base'}")
    return resolve([*argv, f"adapter_name_or_path={named}"] if named else argv, verb="export")


def in_this_process(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The proof without the cost of a fresh process, through the same JSON."""
    proof = prove(json.loads(json.dumps(task)), folder)
    (folder / "proof.json").write_text(json.dumps(proof))
    return proof


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "run_proof", in_this_process)


@pytest.fixture(scope="module")
def exported(parts: Path, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """An export of the adapter in bfloat16 in a fresh process, and the task that proves it."""
    target = tmp_path_factory.mktemp("out") / "merged"
    resolved = resolved_for(parts, target, "infer_dtype=bfloat16")
    assert merge.export(resolved) == 0
    located = locate(resolved)
    renderer = open_renderer(resolved.config, located)
    task = make_task(
        resolved.config,
        located,
        renderer,
        is_tied=True,
        chat_template=renderer.tokenizer.chat_template,
        has_faithful_template=True,
        held_out=held_out_rows(resolved.config, None, renderer),
    )
    return target, json.loads(json.dumps(task))


def test_the_proof_of_a_right_export_holds(exported: tuple[Path, dict[str, Any]]) -> None:
    proof = json.loads((exported[0] / "proof.json").read_text())
    assert proof["problems"] == []
    assert 0 < proof["largest_logit_difference"] < proof["tolerance"]
    assert proof["merge_logit_difference"] < proof["merge_tolerance"] < proof["tolerance"]
    assert proof["adapter_effect"]["rms"] > 2 * proof["rms_logit_difference"]
    assert (proof["tokenizer_equal"], proof["num_prompts_equal"]) == (True, len(PROMPTS))
    assert (proof["dtype"], proof["compute_dtype"], proof["tied_embeddings"]) == ("bfloat16", "float32", True)
    assert proof["num_tensors_compared"] == len(load_file(exported[0] / "model.safetensors"))
    assert "model.safetensors" in proof["files_sha256"]
    assert "proof.json" not in proof["files_sha256"]
    assert proof["held_out"].startswith("6 built-in texts")
    losses = proof["held_out_loss"]
    assert 0 < abs(losses["after"] - losses["before"]) < 1e-3 < abs(losses["base"] - losses["before"])
    assert 0 < proof["logprob_difference"]["mean"] < 0.02
    assert proof["adapter_effect"]["share_in_folder"] == pytest.approx(1, abs=0.05)
    assert [len(answer["ids"]) > 4 for answer in proof["answers"]] == [True] * len(PROMPTS)
    assert proof["num_equal_answers"] >= 6  # a nearly level choice may fall otherwise in bfloat16
    assert proof["base_weights"].startswith("sha256:")
    assert [len(value) for value in proof["adapters_sha256"]] == [64]


def test_the_folder_loads_in_plain_transformers_and_answers_as_peft_does(
    parts: Path, quick: None, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert merge.export(resolved_for(parts, tmp_path / "out")) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    attached = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(parts / "base"), parts / "adapter")
    for text in PROMPTS[:3]:
        rows = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(rows, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        one, other = (model.generate(**ids, max_new_tokens=12, do_sample=False) for model in (written, attached))
        assert torch.equal(one, other)


def test_generation_settings_stop_where_the_renderer_stops(parts: Path, tmp_path: Path, quick: None) -> None:
    import shutil

    base = Path(shutil.copytree(parts / "base", tmp_path / "base"))
    wrong = {"eos_token_id": 5, "pad_token_id": 5, "temperature": 0.6, "top_p": 0.9}
    (base / "generation_config.json").write_text(json.dumps(wrong))
    resolved = resolved_for(parts, tmp_path / "out", f"model_name_or_path={base}")
    assert merge.export(resolved) == 0
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (settings["eos_token_id"], settings["pad_token_id"]) == (2, 0)  # <|im_end|>, <|endoftext|>
    assert (settings["do_sample"], settings["temperature"], settings["top_p"]) == (True, 0.6, 0.9)


def _bend_one_matrix(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3] *= 1.05
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _bend_everything(folder: Path) -> None:
    weights = {name: tensor * 1.2 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _other_template(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_start|> "))


def _other_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    data["model"]["merges"] = data["model"]["merges"][:-1]
    file.write_text(json.dumps(data))


def _untied(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))


def _wider_dtype(folder: Path) -> None:
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (_bend_one_matrix, "written tensors are not the merged ones: model.layers.1.mlp.down_proj"),
        (_bend_everything, "logits differ by up to"),
        (_other_template, "chat template gives other tokens"),
        (_other_tokenizer, "tokenizer written is not the one"),
        (_untied, "should share one tensor"),
        (_wider_dtype, "BF16 was asked for"),
    ],
)
def test_a_planted_fault_fails_the_proof(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path, fault: Callable[[Path], None], named: str
) -> None:
    import shutil

    folder = Path(shutil.copytree(exported[0], tmp_path / "copy"))
    fault(folder)
    assert any(named in problem for problem in prove(exported[1], folder)["problems"])


def test_an_export_of_the_bare_base_is_not_taken_for_the_tuned_model(
    parts: Path, exported: tuple[Path, dict[str, Any]]
) -> None:
    problems = prove(exported[1], parts / "base")["problems"]
    assert any("are not the merged ones" in problem for problem in problems)
    assert any("loses what was learned" in problem for problem in problems)


def test_an_adapter_without_effect_fails_the_proof_too(
    parts: Path, exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    idle = tiny_adapter(tmp_path / "idle", parts / "base", scale=0.0)
    problems = prove({**exported[1], "adapters": [str(idle)]}, exported[0])["problems"]
    assert any("had no effect" in problem for problem in problems)


def test_a_merge_that_computes_something_else_fails_the_proof(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """The same wrong merge writes the files and is repeated by the proof: only the attached adapter can tell."""
    from peft.tuners.lora.layer import Linear

    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda layer, name: 0.9 * right(layer, name))
    assert merge.export(resolved_for(parts, tmp_path / "out")) == 1
    proof = json.loads((tmp_path / "out.failed" / "proof.json").read_text())
    assert any("merging changed the logits" in problem for problem in proof["problems"])


def test_an_idle_adapter_is_refused_before_anything_is_written(parts: Path, tmp_path: Path) -> None:
    tiny_adapter(parts / "idle", parts / "base", scale=0.0)
    with pytest.raises(ExportError, match="no effect"):
        merge.export(resolved_for(parts, tmp_path / "out", adapters="idle"))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_proof_leaves_the_earlier_export_in_place(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    target = tmp_path / "out"
    assert merge.export(resolved_for(parts, target)) == 0
    before = (target / "proof.json").read_text()

    def failing(task: dict[str, Any], folder: Path) -> dict[str, Any]:
        return {**in_this_process(task, folder), "problems": ["planted"]}

    monkeypatch.setattr(merge, "run_proof", failing)
    assert merge.export(resolved_for(parts, target)) == 1
    assert (target / "proof.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.failed"]


def test_an_earlier_export_is_replaced_whole(parts: Path, tmp_path: Path, quick: None) -> None:
    target = tmp_path / "out"
    assert merge.export(resolved_for(parts, target)) == 0
    (target / "left-over.txt").write_text("")
    assert merge.export(resolved_for(parts, target)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (target / "left-over.txt").exists()


def test_several_adapters_are_merged_in_order_and_proven(parts: Path, tmp_path: Path, quick: None) -> None:
    assert merge.export(resolved_for(parts, tmp_path / "out", "infer_dtype=bfloat16", adapters="adapter,second")) == 0
    assert json.loads((tmp_path / "out" / "proof.json").read_text())["adapters"] == [
        str(parts / "adapter"),
        str(parts / "second"),
    ]


def test_the_base_alone_is_exported_with_a_note(parts: Path, tmp_path: Path, quick: None, capsys) -> None:
    assert merge.export(resolved_for(parts, tmp_path / "out", "infer_dtype=float16", adapters="")) == 0
    assert "no adapter is named" in capsys.readouterr().err
    proof = json.loads((tmp_path / "out" / "proof.json").read_text())
    assert (proof["adapter_effect"], proof["dtype"]) == (None, "float16")


def test_export_size_splits_the_weights(parts: Path, tmp_path: Path, quick: None) -> None:
    assert merge.export(resolved_for(parts, tmp_path / "out", "export_size=0.0002")) == 0
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert all(shard.stat().st_mode & 0o044 for shard in shards), "others must be able to read an export"


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_while_writing_is_reported_and_leaves_nothing(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from transformers import PreTrainedModel

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(ExportError, match="No space left on device"):
        merge.export(resolved_for(parts, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_model_is_refused(parts: Path, tmp_path: Path) -> None:
    tiny_model(tmp_path / "deeper", num_layers=3)
    tiny_adapter(tmp_path / "foreign", tmp_path / "deeper")
    with pytest.raises(ModelError, match="foreign"):
        merge_adapters(load_plain_model(parts / "base", torch.float32), [tmp_path / "foreign"])


TARGETS = [
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
]


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("targets", TARGETS)
def test_an_adapter_on_the_embeddings_merges_to_the_same_logits(
    tmp_path: Path, targets: dict[str, list[str]], is_tied: bool
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    base = tiny_model(tmp_path / "base", tie_word_embeddings=is_tied)
    trained = get_peft_model(load_plain_model(base, torch.float32), LoraConfig(r=4, **targets))
    torch.manual_seed(0)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    trained.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(3, 40)[None]
    attached = PeftModel.from_pretrained(load_plain_model(base, torch.float32), tmp_path / "adapter").eval()
    expected = attached(ids).logits
    merge_adapters(load_plain_model(base, torch.float32), [tmp_path / "adapter"]).save_pretrained(tmp_path / "out")
    # 1e-4: float32 sums in another order; without parting a tied pair the difference is above 1.
    assert (load_plain_model(tmp_path / "out", torch.float32)(ids).logits - expected).abs().max() < 1e-4
