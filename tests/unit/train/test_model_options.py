"""Every model option in a real training of a tiny model: switching it on changes something that can be seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny_experts import tiny_mixtral
from tests.training import history, run_training, weights, write_project

from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError, ResumeError
from tunesmith.infer.session import open_session
from tunesmith.model.plain import load_plain_model
from tunesmith.model.rope import RECORD_FILE, read_record

STEPS: dict[str, Any] = {"max_steps": 3}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("options"), num_rows=16)


@pytest.fixture(scope="module")
def plain(project: Path) -> Path:
    return run_training(project, "plain", cutoff_len=1024, **STEPS)


def _distance(first: Path, second: Path) -> float:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


def _log(run: Path) -> str:
    return (run / "run.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["linear", "dynamic", "yarn", "llama3"])
def test_rope_scaling_changes_training_is_said_and_recorded(method: str, project: Path, plain: Path) -> None:
    run = run_training(project, method, rope_scaling=method, cutoff_len=1024, save_strategy="epoch", **STEPS)
    assert _distance(run, plain) > 1e-6
    assert f"rope_scaling: {method} by 2 (512 to 1,024 positions), because cutoff_len is 1,024" in _log(run)
    record = read_record(run)
    assert record is not None
    assert record.method == method
    assert record == read_record(next(run.glob("checkpoint-*")))


def test_rope_scaling_that_is_not_needed_changes_nothing_and_is_said(project: Path, plain: Path) -> None:
    run = run_training(project, "unneeded", rope_scaling="yarn", cutoff_len=512, **STEPS)
    base = run_training(project, "base", cutoff_len=512, **STEPS)
    assert _distance(run, base) == 0
    assert "rope_scaling: yarn is not applied: cutoff_len 512 fits" in _log(run)
    argv = [str(run / "run.yaml"), "template=chatml"]
    session = open_session(resolve(argv, verb="chat"))
    assert session.engine.lanes.model.config.max_position_embeddings == 512  # type: ignore[attr-defined]


def test_a_stretched_adapter_is_chatted_with_and_exported_as_trained_without_the_key(project: Path) -> None:
    from tunesmith.export.merge import export

    run = run_training(project, "stretched", rope_scaling="yarn", cutoff_len=1500, **STEPS)
    named = [f"model_name_or_path={project / 'model'}", f"adapter_name_or_path={run}", "template=chatml"]
    session = open_session(resolve(named, verb="chat"))
    assert any("as the adapter" in note and "yarn by 3" in note for note in session.notes)
    inner = session.engine.lanes.model.get_base_model()  # type: ignore[attr-defined]
    target = project / "exported"
    assert export(resolve([*named, f"export_dir={target}"], verb="export")) == 0
    written = load_plain_model(target, torch.float32, "cpu")
    assert torch.equal(written.model.rotary_emb.inv_freq, inner.model.rotary_emb.inv_freq)
    assert written.config.max_position_embeddings == 1536
    again = open_session(
        resolve([f"model_name_or_path={target}", "rope_scaling=yarn", "template=chatml"], verb="chat")
    ).engine.lanes.model  # type: ignore[attr-defined]
    assert again.config.max_position_embeddings == 1536, "the key must not stretch an exported model once more"


def test_a_fully_trained_stretched_model_is_not_stretched_again_by_its_own_file(project: Path) -> None:
    run = run_training(project, "full-yarn", rope_scaling="yarn", cutoff_len=1024, finetuning_type="full", **STEPS)
    saved = json.loads((run / "config.json").read_text())
    assert saved["max_position_embeddings"] == 1024
    assert saved["rope_parameters"]["factor"] == 2.0
    session = open_session(resolve([str(run / "run.yaml")], verb="chat"))
    assert session.engine.lanes.model.config.max_position_embeddings == 1024  # type: ignore[attr-defined]
    assert any("are used as trained: yarn by 2" in note for note in session.notes)


def test_a_run_is_not_continued_with_other_positions(project: Path) -> None:
    settings = {"cutoff_len": 1024, "save_strategy": "steps", "save_steps": 2, **STEPS}
    run_training(project, "kept", rope_scaling="linear", **settings)
    with pytest.raises(ResumeError) as caught:
        run_training(project, "kept", rope_scaling="yarn", **{**settings, "max_steps": 5})
    assert "positions: rope_scaling linear -> rope_scaling yarn" in caught.value.where


def test_overwriting_a_run_removes_its_record(project: Path) -> None:
    run = run_training(project, "again", rope_scaling="linear", cutoff_len=1024, **STEPS)
    assert (run / RECORD_FILE).is_file()
    run_training(project, "again", overwrite_output_dir=True, cutoff_len=1024, **STEPS)
    assert not (run / RECORD_FILE).exists()


def test_shift_attn_changes_training(project: Path) -> None:
    settings = {"cutoff_len": 96, "min_stop_fraction": 0.0, **STEPS}
    shifted = run_training(project, "shifted", shift_attn=True, **settings)
    assert _distance(shifted, run_training(project, "unshifted", **settings)) > 1e-6


def test_shift_attn_does_not_depend_on_packing_into_rows(project: Path) -> None:
    settings = {"shift_attn": True, "cutoff_len": 96, "min_stop_fraction": 0.0, "lora_dropout": 0.0, **STEPS}
    packed = run_training(project, "shift-rows", micro_batch_tokens=192, **settings)
    alone = run_training(project, "shift-alone", micro_batch_tokens=1, **settings)
    assert _distance(packed, alone) < 1e-5


def test_neftune_changes_training_and_zero_does_not(project: Path, plain: Path) -> None:
    noisy = run_training(project, "noisy", neftune_noise_alpha=5, cutoff_len=1024, **STEPS)
    assert _distance(noisy, plain) > 1e-5
    assert _distance(run_training(project, "quiet", neftune_noise_alpha=0, cutoff_len=1024, **STEPS), plain) == 0


def test_neftune_resumes_exactly(project: Path) -> None:
    settings = {"neftune_noise_alpha": 5, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    whole = run_training(project, "noise-whole", max_steps=4, **settings)
    run_training(project, "noise-parts", max_steps=2, **settings)
    assert _distance(run_training(project, "noise-parts", max_steps=4, **settings), whole) == 0


def test_disabled_attention_trains_to_the_same_weights(project: Path, plain: Path) -> None:
    run = run_training(project, "eager", flash_attn="disabled", cutoff_len=1024, **STEPS)
    assert _distance(run, plain) < 1e-4
    assert "flash_attn: fa2 is served by" in _log(run_training(project, "fa2", flash_attn="fa2", **STEPS))


def test_upcast_layernorm_changes_bf16_training_and_is_said(project: Path) -> None:
    narrow = run_training(project, "narrow", bf16=True, **STEPS)
    wide = run_training(project, "wide", bf16=True, upcast_layernorm=True, **STEPS)
    assert _distance(narrow, wide) > 0
    assert "upcast_layernorm: 5 parameters are now kept in 32 bits" in _log(wide)


@pytest.mark.parametrize("finetuning_type", ["full", "freeze"])
def test_trained_fp32_weights_compute_in_bf16(finetuning_type: str, project: Path) -> None:
    run = run_training(project, f"bf16-{finetuning_type}", finetuning_type=finetuning_type, bf16=True, **STEPS)
    reference = run_training(project, f"fp32-{finetuning_type}", finetuning_type=finetuning_type, **STEPS)
    assert history(run, "loss")[0] == pytest.approx(history(reference, "loss")[0], rel=1e-3)


def test_training_from_scratch_needs_no_weights_and_follows_the_seed(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "p", ignore=shutil.ignore_patterns("*.safetensors", "plain"))
    bare = tmp_path / "p"
    settings = {"train_from_scratch": True, "finetuning_type": "full", **STEPS}
    first = run_training(bare, "first", **settings)
    assert _distance(first, run_training(bare, "second", **settings)) == 0
    assert _distance(first, run_training(bare, "other", seed=7, **settings)) > 1e-2
    assert _distance(first, run_training(project, "pretrained", finetuning_type="full", **STEPS)) > 1e-2


def test_a_run_from_scratch_resumes_from_its_checkpoint(project: Path) -> None:
    settings = {
        "train_from_scratch": True, "finetuning_type": "full", "save_strategy": "steps", "save_steps": 2,
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    whole = run_training(project, "scratch-whole", max_steps=4, **settings)
    run_training(project, "scratch-parts", max_steps=2, **settings)
    assert _distance(run_training(project, "scratch-parts", max_steps=4, **settings), whole) == 0
    session = open_session(resolve([str(whole / "run.yaml")], verb="chat"))
    trained = session.engine.lanes.model.state_dict()["model.norm.weight"]  # type: ignore[attr-defined]
    assert torch.equal(trained, weights(whole)["model.norm.weight"])


def test_print_param_status_lists_every_parameter(project: Path, plain: Path) -> None:
    run = run_training(project, "listed", print_param_status=True, **STEPS)
    lines = [line for line in _log(run).splitlines() if line.endswith((", trained", ", frozen"))]
    assert len(lines) == 2 * (9 + 14) + 3
    assert sum(line.endswith("trained") for line in lines) == 28
    assert any("lora_A" in line and "4x64, float32, cpu, trained" in line for line in lines)
    assert "lora_A" not in _log(plain)


@pytest.mark.parametrize("finetuning_type", ["lora", "full"])
def test_checkpointing_changes_memory_only(finetuning_type: str, project: Path) -> None:
    settings = {"finetuning_type": finetuning_type, "lora_dropout": 0.1, "neftune_noise_alpha": 5, **STEPS}
    off = run_training(project, f"off-{finetuning_type}", disable_gradient_checkpointing=True, **settings)
    on = run_training(project, f"on-{finetuning_type}", use_unsloth_gc=True, **settings)
    assert _distance(off, on) == 0
    assert "gradient checkpointing is off" in _log(off)
    assert "gradient checkpointing is on" in _log(on)
    assert "memory: a step needs about" in _log(on)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = write_project(tmp_path_factory.mktemp("experts"), num_rows=24)
    shutil.rmtree(project / "model")
    tiny_mixtral(project / "model")
    return project


BALANCED: dict[str, Any] = {"moe_aux_loss_coef": 0.5, "finetuning_type": "full", "max_steps": 4}


def test_the_balance_loss_does_not_depend_on_how_a_batch_is_cut(experts: Path) -> None:
    cuts = [(8, 1, None), (2, 4, None), (1, 8, 1), (8, 1, 100)]
    runs = [
        run_training(
            experts,
            f"cut-{batch}-{accumulation}-{tokens}",
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            **({"micro_batch_tokens": tokens} if tokens else {}),
            **BALANCED,
        )
        for batch, accumulation, tokens in cuts
    ]
    for run in runs[1:]:
        assert history(run, "aux_loss") == pytest.approx(history(runs[0], "aux_loss"), rel=1e-5)
        assert _distance(run, runs[0]) < 1e-5


def test_the_balance_loss_evens_the_load_and_is_logged(experts: Path) -> None:
    settings = {**BALANCED, "learning_rate": 5e-3, "max_steps": 20}
    on = run_training(experts, "balanced", **settings)
    watched = run_training(experts, "watched", **{**settings, "moe_aux_loss_coef": 1e-9})
    off = run_training(experts, "unbalanced", **{**settings, "moe_aux_loss_coef": 0.0})
    losses = history(on, "aux_loss")
    assert losses[-1] < history(watched, "aux_loss")[-1] - 0.3
    assert history(off, "aux_loss") == []
    lines = [json.loads(line) for line in (on / "trainer_log.jsonl").read_text().splitlines()]
    assert [line["aux_loss"] for line in lines if "aux_loss" in line] == losses


def test_checkpointed_experts_take_the_same_steps(experts: Path) -> None:
    runs = [
        run_training(experts, f"gc-{on}", gradient_checkpointing=on, **{**BALANCED, "finetuning_type": "lora"})
        for on in (True, False)
    ]
    assert _distance(*runs) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"moe_aux_loss_coef": 0.1}, "`moe_aux_loss_coef` does not fit a model of type gpt2"),
        ({"rope_scaling": "linear"}, "`rope_scaling` does not fit a model of type gpt2"),
        ({"shift_attn": True}, "`shift_attn: true` does not fit a model of type gpt2"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_before_weights_are_read(
    settings: dict[str, Any], message: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    shutil.copytree(project / "model", tmp_path / "gpt2", ignore=shutil.ignore_patterns("*.safetensors"))
    GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    monkeypatch.setattr("tunesmith.train.build.load_model", lambda *args, **kwargs: pytest.fail("weights were read"))
    with pytest.raises(ConfigError) as caught:
        run_training(project, "refused", model_name_or_path=tmp_path / "gpt2", cutoff_len=2048, **settings)
    assert caught.value.what == message
    assert not (project / "refused").exists()
