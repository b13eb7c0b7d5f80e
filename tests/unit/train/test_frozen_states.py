"""Kept states of frozen layers: the same training with less work, and where they cannot be kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.stages import write_stage_project
from tests.training import history, largest_difference, run_training, weights, write_project
from torch import nn

from tunesmith.errors import ConfigError
from tunesmith.model import frozen_states
from tunesmith.train import frozen

LAST = {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "learning_rate": 1e-3}
ADAPTED: dict[str, Any] = {"finetuning_type": "lora", "lora_layers": "1", "lora_dropout": 0.1}
PACKED = {**LAST, "packing": True}
KEPT = "the first 1 of 2 layers are frozen: run once"


def _both(project: Path, **settings: Any) -> tuple[Path, Path]:
    """The same run with and without kept states."""
    kept, plain = (
        run_training(project, f"kept-{flag}", **{**settings, "cache_frozen_layers": flag}) for flag in (None, False)
    )
    said = [(run / "run.log").read_text(encoding="utf-8") for run in (kept, plain)]
    assert [KEPT in text for text in said] == [True, False]
    return kept, plain


@pytest.mark.parametrize(
    ("stage", "method"),
    [*((stage, way) for stage in ("pt", "sft", "rm", "dpo", "kto") for way in (LAST, ADAPTED)), ("sft", PACKED)],
)
def test_training_from_kept_states_is_the_same_training(stage: str, method: dict[str, Any], tmp_path: Path) -> None:
    project, settings = write_stage_project(tmp_path, stage, num_rows=12)
    settings = {**settings, **method, "num_train_epochs": 3, "lora_dropout": method.get("lora_dropout", 0)}
    kept, plain = _both(project, **settings)
    assert largest_difference(history(kept, "loss"), history(plain, "loss")) < 1e-5
    assert largest_difference(history(kept, "grad_norm"), history(plain, "grad_norm")) < 1e-4
    first, second = weights(kept), weights(plain)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in second)


def test_the_frozen_layer_runs_for_the_states_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write_project(tmp_path, num_rows=12)
    calls: dict[int, int] = {}
    from transformers.models.llama.modeling_llama import LlamaAttention

    forward = LlamaAttention.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[self.layer_idx] = calls.get(self.layer_idx, 0) + 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaAttention, "forward", counted)
    run_training(project, **{**LAST, "num_train_epochs": 8})
    with_states = dict(calls)
    calls.clear()
    run_training(project, "plain", **{**LAST, "num_train_epochs": 8, "cache_frozen_layers": False})
    assert calls[0] == calls[1] > 24
    assert with_states[0] < calls[0] / 3
    assert with_states[1] >= 24


def test_a_resumed_run_from_kept_states_equals_the_unbroken_one(tmp_path: Path) -> None:
    project = write_project(tmp_path, num_rows=12)
    settings = {**LAST, "bf16": True, "num_train_epochs": 4, "save_strategy": "steps", "save_steps": 5}
    settings["lr_scheduler_type"] = "constant"
    unbroken = run_training(project, "unbroken", **settings)
    run_training(project, "broken", **{**settings, "max_steps": 5})
    resumed = run_training(project, "broken", **settings)
    first, second = weights(unbroken), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert KEPT in (resumed / "run.log").read_text(encoding="utf-8")


OBSTACLES: dict[str, tuple[dict[str, Any], str]] = {
    "an adapter in every layer": ({}, "the first layer"),
    "a trained embedding": ({**LAST, "freeze_extra_modules": "embed_tokens"}, "the embedding before it"),
    "noise on the embedding": ({**LAST, "neftune_noise_alpha": 5}, "neftune_noise_alpha"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_where_states_change_they_are_not_kept(name: str, tmp_path: Path) -> None:
    settings, why = OBSTACLES[name]
    project = write_project(tmp_path, num_rows=12)
    run = run_training(project, **settings)
    assert "run once" not in (run / "run.log").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=why):
        run_training(project, "asked", **settings, cache_frozen_layers=True)


def test_answers_made_anew_have_no_states_to_keep(tmp_path: Path) -> None:
    project, settings = write_stage_project(tmp_path, "grpo", num_rows=6)
    with pytest.raises(ConfigError, match="learns from answers that it makes anew"):
        run_training(project, **{**settings, **ADAPTED, "cache_frozen_layers": True})


def test_random_layers_below_are_run_every_time() -> None:
    class Decoder(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.embed, self.drop = nn.Embedding(3, 4), nn.Dropout(rate)
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])
            self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3, bias=False)

        def get_input_embeddings(self) -> nn.Module:
            return self.embed

    still, random = Decoder(0.0), Decoder(0.1)
    trained = list(still.layers[2].parameters())
    assert frozen_states.num_frozen_layers(still, trained, [still.head]) == 2
    assert frozen_states.num_frozen_layers(still, [still.norm.weight, still.head.weight], [still.head]) == 3
    assert frozen_states.num_frozen_layers(still, [still.embed.weight], [still.head]) == 0
    assert frozen_states.num_frozen_layers(random, list(random.layers[2].parameters()), [random.head]) == 0
    still.head.weight = still.embed.weight  # tied
    assert frozen_states.num_frozen_layers(still, [still.head.weight], [still.head]) == 0


def test_one_epoch_and_large_states_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write_project(tmp_path, num_rows=12)
    once = run_training(project, "once", **{**LAST, "num_train_epochs": 1})
    assert "frozen" not in (once / "run.log").read_text(encoding="utf-8")
    monkeypatch.setattr(frozen, "MOST_BYTES", 1000)
    large = run_training(project, "large", **LAST)
    assert "keeping their states would take" in (large / "run.log").read_text(encoding="utf-8")
    asked = run_training(project, "asked", **LAST, cache_frozen_layers=True)
    assert KEPT in (asked / "run.log").read_text(encoding="utf-8")


def test_a_model_that_cannot_be_cut_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the states of another layer."""
    project = write_project(tmp_path, num_rows=12)
    honest = frozen._states
    monkeypatch.setattr(frozen, "_states", lambda *args: honest(*args) * 1.5)
    run = run_training(project, **LAST)
    assert "does not let its frozen layers be left out" in (run / "run.log").read_text(encoding="utf-8")
    assert json.loads((run / "train_results.json").read_text(encoding="utf-8"))["train_loss"] > 0
