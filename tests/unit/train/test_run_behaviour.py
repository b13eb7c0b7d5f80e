"""What a run does besides stepping: evaluates, keeps the best, stops early, rotates, refuses what is not finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.training import history, rows, run_training, weights, write_project

from tunesmith.errors import ConfigError, TrainingError
from tunesmith.train.evaluate import Evaluator

EVALUATED: dict[str, Any] = {
    "val_size": 0.25,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 4,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path, num_rows=24)


def _planned_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Evaluations give these losses in turn, then the last one for ever."""
    rest = list(losses)

    def evaluate(self: Evaluator, scorer: Any) -> dict[str, float]:
        return {"eval_loss": rest.pop(0) if len(rest) > 1 else rest[0]}

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)


def test_the_best_checkpoint_survives_rotation(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _planned_losses(monkeypatch, [3.0, 1.0, 2.0, 2.5, 2.6, 2.7])
    run = run_training(project, max_steps=12, save_total_limit=2, **EVALUATED)
    kept = sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))
    assert kept == [4, 12]
    state = json.loads((run / "trainer_state.json").read_text())
    assert (state["best_metric"], state["best_model_checkpoint"]) == (1.0, "checkpoint-4")


def test_load_best_model_at_end_writes_the_best_weights(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _planned_losses(monkeypatch, [3.0, 1.0, 2.0, 2.5, 2.6, 2.7])
    run = run_training(project, max_steps=10, load_best_model_at_end=True, **EVALUATED)
    best, last = (load_file(run / name / "adapter_model.safetensors") for name in ("checkpoint-4", "checkpoint-10"))
    final = weights(run)
    assert all(torch.equal(final[key], best[key]) for key in best)
    assert any(not torch.equal(final[key], last[key]) for key in last)


def test_early_stopping_counts_evaluations(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _planned_losses(monkeypatch, [3.0, 2.0, 2.1, 2.2, 1.0])
    run = run_training(project, max_steps=40, early_stopping_steps=2, **EVALUATED)
    assert json.loads((run / "trainer_state.json").read_text())["global_step"] == 8


def test_a_finished_run_started_again_trains_no_step_more(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _planned_losses(monkeypatch, [3.0, 2.0, 2.1, 2.2, 1.0])
    settings = {"max_steps": 40, "early_stopping_steps": 2, **EVALUATED}
    before = weights(run_training(project, **settings))
    after = weights(run_training(project, **settings))
    assert "nothing is left to train: step 8" in capsys.readouterr().out
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_plateau_lowers_the_learning_rate(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _planned_losses(monkeypatch, [1.0, 2.0, 2.0, 2.0])
    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}}
    rates = history(run_training(project, max_steps=8, **settings, **EVALUATED), "learning_rate")
    assert rates[:4] == [1e-3] * 4
    assert rates[4:8] == [5e-4, 5e-4, 2.5e-4, 2.5e-4]


def test_evaluation_loss_is_the_mean_over_all_tokens(project: Path) -> None:
    """Row by row or all in one: the same number; a mean of means would not be."""
    runs = [
        run_training(project, f"eval{size}", max_steps=2, per_device_eval_batch_size=size, **EVALUATED)
        for size in (1, 64)
    ]
    first, second = (json.loads((run / "eval_results.json").read_text())["eval_loss"] for run in runs)
    assert first == pytest.approx(second, abs=1e-6)


def test_several_evaluation_sets_have_a_loss_each_and_one_over_all_tokens(project: Path) -> None:
    for name, num_rows, seed in (("short", 5, 1), ("long", 9, 2)):
        (project / "data" / f"{name}.json").write_text(json.dumps(rows(num_rows, seed=seed, longest=3 * num_rows)))
    info = {name: {"file_name": f"{name}.json"} for name in ("rows", "short", "long")}
    (project / "data" / "dataset_info.json").write_text(json.dumps(info))
    settings = {"eval_dataset": "short,long", "eval_strategy": "steps", "eval_steps": 2, "max_steps": 2}
    each = run_training(project, "each", eval_on_each_dataset=True, **settings)
    merged = run_training(project, "merged", **settings)
    apart, together = (json.loads((run / "eval_results.json").read_text()) for run in (each, merged))
    assert {"eval_short_loss", "eval_long_loss"} <= set(apart)
    assert apart["eval_loss"] == pytest.approx(together["eval_loss"], abs=1e-6)
    assert apart["eval_short_loss"] != apart["eval_long_loss"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"metric_for_best_model": "rouge"}, "eval_loss"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patients": 3}}, "patients"),
        ({"optim": "sgd", "optim_args": "momentun=0.9"}, "optim_args"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_before_the_first_step(
    project: Path, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run_training(project, **settings, **EVALUATED)
    assert named in caught.value.render()


@pytest.mark.parametrize(("free_bytes", "on"), [(1_000, True), (10**12, False), (None, True)])
def test_activations_are_recomputed_only_where_memory_is_short(
    project: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int | None, on: bool
) -> None:
    monkeypatch.setattr("tunesmith.train.run.available_memory_bytes", lambda device: free_bytes)
    run = run_training(project, max_steps=1)
    assert f"gradient_checkpointing: {str(on).lower()}  # " in (run / "run.yaml").read_text()


def test_the_log_has_the_keys_that_readers_know(project: Path) -> None:
    run = run_training(project, max_steps=4, plot_loss=True, **EVALUATED)
    records = [json.loads(line) for line in (run / "trainer_log.jsonl").read_text().splitlines()]
    assert {
        "current_steps",
        "total_steps",
        "loss",
        "lr",
        "epoch",
        "percentage",
        "elapsed_time",
        "remaining_time",
    } <= set(records[0])
    assert {"eval_loss"} <= set(records[2])
    assert records[-1]["percentage"] == 100.0
    expected = {
        *("adapter_config.json", "adapter_model.safetensors", "all_results.json", "eval_results.json", "README.md"),
        *("ledger.jsonl", "ledger_summary.json", "render_contract.json", "run.log", "run.yaml", "tokenizer.json"),
        *(
            "train_results.json",
            "trainer_log.jsonl",
            "trainer_state.json",
            "training_loss.png",
            "training_eval_loss.png",
        ),
    }
    assert expected <= {path.name for path in run.iterdir()}
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_run_yaml_trains_the_same_model_again(project: Path) -> None:
    from tunesmith.config.resolve import resolve
    from tunesmith.train.run import train

    run = run_training(project, max_steps=3)
    again = project / "again"
    assert train(resolve([str(run / "run.yaml"), f"output_dir={again}"], verb="train")) == 0
    assert (again / "adapter_model.safetensors").read_bytes() == (run / "adapter_model.safetensors").read_bytes()


def test_weights_that_are_not_finite_are_named(project: Path) -> None:
    file = project / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(key for key in tensors if key.endswith("layers.1.mlp.up_proj.weight"))
    tensors[name][0, 0] = float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises((TrainingError, ConfigError)) as caught:
        run_training(project)
    text = caught.value.render()
    assert "layers.1.mlp.up_proj" in text
    assert "step 1" in text


def test_a_row_that_is_not_finite_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row's loss weight is made infinite, as a broken weight column would; the state before it is saved."""
    from tunesmith.train import run as run_module

    original = run_module.prepare

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        prepared = original(*args, **kwargs)
        store = prepared.train
        start, end = store.offsets[20], store.offsets[21]
        values = store.weights.copy()
        values[start + 1 : end] *= float("inf")
        values[~(values > 0)] = 0
        object.__setattr__(store, "weights", values)
        return prepared

    monkeypatch.setattr(run_module, "prepare", poisoned)
    with pytest.raises(TrainingError) as caught:
        run_training(project, disable_shuffling=True, save_strategy="steps", save_steps=100)
    text = caught.value.render()
    assert "step 6" in text
    assert "rows.json:21" in text or "rows.json:" in text
    assert (project / "out" / "checkpoint-5").is_dir()


@pytest.mark.parametrize("finetuning_type", ["full", "freeze"])
def test_full_and_freeze_train_what_they_say(project: Path, finetuning_type: str) -> None:
    run = run_training(project, finetuning_type=finetuning_type, freeze_trainable_layers=1, max_steps=3)
    before, after = load_file(project / "model" / "model.safetensors"), weights(run)
    changed = {key for key in before if not torch.equal(before[key].float(), after[key].float())}
    if finetuning_type == "freeze":
        assert changed == {key for key in before if ".layers.1." in key}
    else:
        assert changed == set(before)


def test_an_adapter_is_continued_stacked_or_begun_anew(project: Path) -> None:
    first = run_training(project, "first", max_steps=3)
    continued = run_training(project, "continued", max_steps=3, adapter_name_or_path=first)
    fresh = run_training(project, "fresh", max_steps=3, adapter_name_or_path=first, create_new_adapter=True)
    stacked = run_training(project, "stacked", max_steps=3, adapter_name_or_path=f"{first},{continued}")
    losses = {run.name: history(run, "loss")[0] for run in (first, continued, fresh, stacked)}
    assert losses["continued"] < losses["first"]
    assert losses["fresh"] == pytest.approx(losses["continued"], abs=1e-4)
    assert losses["stacked"] < losses["continued"]


def test_an_additional_target_is_trained_in_full(project: Path) -> None:
    run = run_training(project, max_steps=2, additional_target="lm_head")
    assert any("lm_head" in key for key in weights(run))
    losses = history(run, "loss")
    assert len(losses) == 2


def test_each_setting_of_the_loop_changes_the_result(project: Path) -> None:
    """A setting that nothing reads would leave the weights as they are."""
    base = weights(run_training(project, "base", max_steps=4))
    flips: dict[str, Any] = {
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "warmup_steps": 2,
        "weight_decay": 0.5,
        "max_grad_norm": 0.01,
        "seed": 7,
        "data_seed": 7,
        "optim": "sgd",
        "adam_beta1": 0.5,
        "adam_beta2": 0.9,
        "adam_epsilon": 1e-2,
        "lora_alpha": 64,
        "lora_dropout": 0.5,
        "disable_shuffling": True,
        "train_on_prompt": True,
        "packing": True,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 3,
        "max_samples": 10,
        "cutoff_len": 40,
        "bf16": True,
        "pure_bf16": True,
    }
    extra = {"cutoff_len": {"min_stop_fraction": 0}, "packing": {"per_device_train_batch_size": 1}}
    silent = []
    for key, value in flips.items():
        other = weights(run_training(project, f"flip-{key}", **{"max_steps": 4, key: value, **extra.get(key, {})}))
        if all(torch.equal(base[name], other[name].to(base[name].dtype)) for name in base):
            silent.append(key)
    assert silent == []
    assert len(flips) == 22
