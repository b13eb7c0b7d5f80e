"""Whole runs on a tiny model: the public tool's example keys unchanged, and what the loop does with each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_cases import needs_package
from safetensors.torch import load_file
from tests.stages import write_stage_project
from tests.training import history, run_training, weights, write_project

from tunesmith.errors import ConfigError, ResumeError

# what the public tool's examples/extras add to a full or LoRA training
EXAMPLES: dict[str, dict[str, Any]] = {
    "galore": {
        "use_galore": True,
        "galore_layerwise": True,
        "galore_target": "mlp,self_attn",
        "galore_rank": 128,
        "galore_scale": 2.0,
        "pure_bf16": True,
    },
    "apollo": {
        "use_apollo": True,
        "apollo_layerwise": True,
        "apollo_target": "all",
        "apollo_rank": 128,
        "apollo_scale": 32.0,
        "apollo_scale_type": "channel",
        "pure_bf16": True,
    },
    "badam": {
        "use_badam": True,
        "badam_mode": "layer",
        "badam_switch_mode": "ascending",
        "badam_switch_interval": 50,
        "badam_verbose": 2,
    },
    "badam ratio": {"use_badam": True, "badam_mode": "ratio", "badam_update_ratio": 0.05, "badam_mask_mode": "scatter"},
    "adam_mini": {"use_adam_mini": True, "bf16": True},
    "muon": {"use_muon": True, "bf16": True},
    "loraplus": {"finetuning_type": "lora", "loraplus_lr_ratio": 16.0},
}
SETTINGS: dict[str, Any] = {
    "finetuning_type": "full",
    "gradient_accumulation_steps": 1,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "max_steps": 24,
    "learning_rate": 2e-3,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("optimizers"), num_rows=16)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_public_tool_run_unchanged(project: Path, name: str) -> None:
    run = run_training(project, f"example-{name.replace(' ', '-')}", **{**SETTINGS, **EXAMPLES[name]})
    losses, norms = history(run, "loss"), history(run, "grad_norm")
    assert len(losses) == 24
    assert sum(losses[-4:]) < sum(losses[:4])
    assert all(norm > 0 for norm in norms)  # of layer-wise updates too, which report it though they do not clip to it


def test_the_default_optimizer_is_accepted_by_galore(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`optim` left alone is a fused AdamW, which the public tool refuses to project."""
    losses = history(run_training(project, "galore-default", **{**SETTINGS, "use_galore": True}), "loss")
    assert losses[-1] < losses[0]
    assert "GaLore and APOLLO shrink the optimizer's memory only" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("tokens", [64, 4096])
def test_layer_wise_updates_do_not_depend_on_how_the_batch_is_cut(project: Path, tokens: int) -> None:
    """One micro-batch or many, inside the backward pass or after it: the same weights."""
    given = {**SETTINGS, "use_galore": True, "galore_rank": 8, "max_grad_norm": 0, "max_steps": 6}
    given = {**given, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    usual = weights(run_training(project, f"usual-{tokens}", **given, micro_batch_tokens=4096))
    inside = weights(
        run_training(project, f"inside-{tokens}", **given, galore_layerwise=True, micro_batch_tokens=tokens)
    )
    largest = max(float((usual[key] - inside[key]).abs().max()) for key in usual)
    # the same sums in another order where the cut differs; Adam turns the last bit of a tiny gradient into more
    assert largest <= (0 if tokens == 4096 else 2e-3)


def test_each_group_follows_the_schedule_from_its_own_top(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.train.loop import Loop

    seen: list[set[float]] = []
    apply = Loop._apply

    def watched(self: Loop) -> None:
        seen.append({round(group["lr"], 9) for group in self.optimizer.param_groups})
        apply(self)

    monkeypatch.setattr(Loop, "_apply", watched)
    given = {**SETTINGS, "lr_scheduler_type": "linear", "warmup_ratio": 0, "max_steps": 4}
    run = run_training(project, "groups", **given, embedding_learning_rate=1e-4)
    assert seen == [{round(2e-3 * f, 9), round(1e-4 * f, 9)} for f in (1, 0.75, 0.5, 0.25)]
    assert history(run, "learning_rate") == pytest.approx([2e-3, 1.5e-3, 1e-3, 5e-4])


def test_gradients_of_every_block_of_badam_are_clipped(project: Path) -> None:
    """A norm limit near nothing keeps every layer where it is; forgotten ones would move."""
    given = {**SETTINGS, "use_badam": True, "badam_switch_interval": 2, "optim": "sgd", "max_steps": 6}
    start = weights(run_training(project, "badam-still", **{**given, "learning_rate": 0.0}))
    clipped = weights(run_training(project, "badam-clipped", **{**given, "learning_rate": 0.1}, max_grad_norm=1e-6))
    free = weights(run_training(project, "badam-free", **{**given, "learning_rate": 0.1}, max_grad_norm=0))
    moved = {key for key in start if float((clipped[key] - start[key]).abs().max()) > 1e-6}
    assert moved == set()
    layers = {key.split(".")[2] for key in start if not torch.equal(free[key], start[key])}
    assert layers == {"0", "1"}


def test_badam_keeps_the_model_in_bf16_and_the_active_layer_in_fp32(project: Path) -> None:
    given = {**SETTINGS, "use_badam": True, "badam_switch_interval": 50, "bf16": True, "max_steps": 3}
    run = run_training(project, "badam-bf16", **given, save_strategy="steps", save_steps=2)
    stored = weights(run)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    state = load_file(run / "checkpoint-2" / "optimizer.safetensors")
    masters = {key: value for key, value in state.items() if key.endswith("::master")}
    assert {value.dtype for value in masters.values()} == {torch.float32}
    assert all(key.startswith("model.layers.0.") for key in masters)


def test_a_schedule_free_run_saves_and_evaluates_its_average(project: Path) -> None:
    needs_package("schedule_free")
    given = {**SETTINGS, "lr_scheduler_type": "constant", "warmup_ratio": 0, "max_steps": 6}
    run = run_training(project, "free", **given, optim="schedule_free_adamw", save_strategy="steps", save_steps=3)
    state = load_file(run / "checkpoint-6" / "optimizer.safetensors")
    average = load_file(run / "checkpoint-6" / "model.safetensors")
    key = "model.norm.weight"
    assert not torch.equal(average[key], state[f"{key}::trained"])
    assert all(torch.equal(average[name], tensor) for name, tensor in weights(run).items())


def test_a_run_goes_on_only_with_an_optimizer_of_the_same_make(project: Path) -> None:
    given = {**SETTINGS, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    run_training(project, "make", **given, use_galore=True, galore_rank=8)
    with pytest.raises(ResumeError) as caught:
        run_training(project, "make", **{**given, "max_steps": 6}, use_galore=True, galore_rank=4)
    assert "optimizer: GaLore over adamw_torch, rank 8" in caught.value.where
    run_training(project, "make", **{**given, "max_steps": 6}, use_galore=True, galore_rank=8, galore_layerwise=True)


@pytest.mark.parametrize("name", ["galore", "apollo", "badam", "adam_mini", "muon"])
def test_a_reward_model_with_its_value_head_is_trained_by_each(tmp_path: Path, name: str) -> None:
    """The head stands beside the model: BAdam keeps it in every block, Muon leaves its single row to AdamW."""
    project, given = write_stage_project(tmp_path, "rm-full")
    given = {**given, **EXAMPLES[name], "learning_rate": 1e-3, "badam_switch_interval": 2, "save_strategy": "no"}
    heads = []
    for steps in (1, 5):
        run = run_training(project, f"{name}-{steps}", **given, max_steps=steps, lr_scheduler_type="constant")
        (file,) = run.glob("value_head*.safetensors")
        heads.append(load_file(file))
    assert all(not torch.equal(heads[0][key], heads[1][key]) for key in heads[0])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"use_galore": True, "use_apollo": True}, "more than one optimizer"),
        ({"use_galore": True, "finetuning_type": "lora"}, "finetuning_type: full"),
        ({"optim": "lomo"}, "galore_layerwise: true"),
        ({"optim": "adamw_torch_xla"}, "TPU"),
        ({"optim": "adamw_torch_npu_fused"}, "Ascend NPU"),
        ({"optim": "adamw_anyprecision"}, "torchdistx"),
        ({"optim": "sgd", "optim_args": "momentum=fast"}, "expected a number"),
        ({"lr_scheduler_kwargs": {"num_cycles": "many"}}, "expected a number"),
        ({"lr_scheduler_kwargs": {"min_lr": 1e-6}}, "has no option 'min_lr'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_read(
    project: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], named: str
) -> None:
    from tunesmith.train import run

    def untouched(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was read")

    monkeypatch.setattr(run, "load_tokenizer", untouched)
    monkeypatch.setattr(run, "build_model", untouched)
    with pytest.raises(ConfigError) as caught:
        run_training(project, "refused", **{**SETTINGS, **given})
    assert named in caught.value.render()
    assert caught.value.where
