"""Stage rm: the head is trained, saved, found again and scores everywhere alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_samples import sample
from safetensors.torch import load_file
from tests.stages import write_stage_project
from tests.tiny import tiny_model
from tests.training import arguments, history, run_training

from tunesmith.config.resolve import resolve
from tunesmith.data.prepare import prepare
from tunesmith.model.load import load_tokenizer
from tunesmith.model.scorer import Scorer
from tunesmith.model.value_head import BIAS, VALUE_HEAD, WEIGHT
from tunesmith.render import load_renderer
from tunesmith.train.build import build_model
from tunesmith.train.rewards.sources import rewards_from_config
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Setup

EVALUATION = {"val_size": 6, "do_predict": True}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return write_stage_project(tmp_path_factory.mktemp("rm"), "rm", num_rows=26)


def trained(project: tuple[Path, dict[str, Any]], output: str, **settings: Any) -> Path:
    folder, own = project
    values = {**own, **EVALUATION, "max_steps": 4, "overwrite_output_dir": True, **settings}
    return run_training(folder, output, **values)


def predictions(run: Path) -> list[dict[str, float]]:
    text = (run / "generated_predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def held_out(project: tuple[Path, dict[str, Any]], **settings: Any) -> Any:
    """The evaluation pairs."""
    folder, own = project
    config = resolve(arguments(folder, **{**own, **EVALUATION, **settings}), verb="train").config
    renderer = load_renderer(config, load_tokenizer(config), "llama")
    return prepare(config, renderer, folder, need_eval=True).evals[""]


def scored_alone(project: tuple[Path, dict[str, Any]], **reward: Any) -> list[dict[str, float]]:
    """Every held-out answer scored by itself, as PPO and GRPO would."""
    folder, _ = project
    store = held_out(project)
    sequences = store.unfold(range(len(store)))
    samples = [sample("a", prompt_ids=(), completion_ids=tuple(sequences.example(i)[0].tolist())) for i in range(12)]
    policy = resolve(arguments(folder, **reward), verb="train").config
    scorer = Scorer(build_model(policy, (torch.float32, torch.float32), None), torch.float32, "cpu")
    renderer = type("Renderer", (), {"tokenizer": load_tokenizer(policy)})()
    rewards = rewards_from_config(policy, folder)
    rewards.open(Setup(policy, Runtime(use_cpu=True), scorer, renderer, {}, 16, print, folder, folder))
    totals = rewards.score(samples).totals
    return [{"chosen": a, "rejected": b} for a, b in zip(totals[::2], totals[1::2], strict=True)]


def same(first: list[dict[str, float]], second: list[dict[str, float]]) -> bool:
    assert len(first) == len(second) == 6
    return all(a == pytest.approx(b, abs=1e-5) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("finetuning_type", ["lora", "full"])
def test_the_scores_predicted_are_those_that_the_saved_model_gives_single_answers(
    project: tuple[Path, dict[str, Any]], finetuning_type: str
) -> None:
    own = {"finetuning_type": "full", "learning_rate": 1e-4} if finetuning_type == "full" else {}
    run = trained(project, finetuning_type, **own)
    assert (run / VALUE_HEAD).is_file()
    kind = {"reward_model_type": "full"} if finetuning_type == "full" else {}
    found = predictions(run)
    assert same(found, scored_alone(project, reward_model=run, **kind))
    assert len({round(line[side], 4) for line in found for side in line}) > 6
    if finetuning_type == "full":  # planted: the head of another step
        other = trained(project, "other-head", **own, max_steps=1)
        (run / VALUE_HEAD).write_bytes((other / VALUE_HEAD).read_bytes())
        assert not same(found, scored_alone(project, reward_model=run, **kind))


def test_predictions_are_judged_in_the_result_files(project: tuple[Path, dict[str, Any]]) -> None:
    run = trained(project, "judged")
    found, results = predictions(run), json.loads((run / "predict_results.json").read_text(encoding="utf-8"))
    right = sum(line["chosen"] > line["rejected"] for line in found) / len(found)
    assert results["predict_accuracy"] == pytest.approx(right)
    evaluated = json.loads((run / "eval_results.json").read_text(encoding="utf-8"))
    for name in ("loss", "accuracy", "margin"):
        assert results[f"predict_{name}"] == pytest.approx(evaluated[f"eval_{name}"], abs=1e-5)
    everything = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    assert {**results, **evaluated}.items() <= everything.items()
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "value_head.safetensors" in card
    assert f"| `eval_accuracy` | {evaluated['eval_accuracy']:.4f} |" in card
    assert "tunesmith chat" not in (run / "run.log").read_text(encoding="utf-8")


def test_another_head_start_gives_another_model_and_a_saved_one_is_taken_up(
    project: tuple[Path, dict[str, Any]],
) -> None:
    first = trained(project, "first")
    going_on = trained(project, "going-on", adapter_name_or_path=first, learning_rate=1e-9)
    assert same(predictions(first), predictions(going_on))
    tensors = load_file(first / VALUE_HEAD)
    assert tensors[WEIGHT].shape == (1, 64)
    assert tensors[BIAS].shape == (1,)


def test_the_best_checkpoint_comes_back_with_its_head(project: tuple[Path, dict[str, Any]]) -> None:
    """The public tool refuses load_best_model_at_end here."""
    keep = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    run = trained(project, "best", **keep, **best, learning_rate=5e-3)
    losses = history(run, "eval_loss")
    worst = losses.index(max(losses)) + 1
    assert worst < 4, "the run must end elsewhere for this to say anything"
    assert (run / VALUE_HEAD).read_bytes() == (run / f"checkpoint-{worst}" / VALUE_HEAD).read_bytes()
    assert (run / VALUE_HEAD).read_bytes() != (run / "checkpoint-4" / VALUE_HEAD).read_bytes()
    results = json.loads((run / "predict_results.json").read_text(encoding="utf-8"))
    assert results["predict_loss"] == pytest.approx(max(losses), abs=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_head_that_nothing_reads_is_not_trained(tmp_path: Path, tied: bool) -> None:
    project, settings = write_stage_project(tmp_path, "rm-full", tie_word_embeddings=tied)
    run = run_training(project, **settings, max_steps=2)
    log = (run / "run.log").read_text(encoding="utf-8")
    before, after = load_file(project / "model" / "model.safetensors"), load_file(run / "model.safetensors")
    num_all = sum(tensor.numel() for tensor in before.values()) + 65  # and the value head
    num_trained = num_all - (0 if tied else 512 * 64)
    assert f"trainable params: {num_trained:,} || all params: {num_all:,}" in log
    assert ("lm_head) is not trained" in log) is not tied
    assert not torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    if not tied:
        assert torch.equal(before["lm_head.weight"], after["lm_head.weight"])


def test_an_exported_reward_model_scores_alike(project: tuple[Path, dict[str, Any]]) -> None:
    from tunesmith.export.merge import export

    run, merged = trained(project, "to-export"), project[0] / "merged"
    assert export(resolve([str(run / "run.yaml"), f"export_dir={merged}"], verb="export")) == 0
    assert (merged / VALUE_HEAD).read_bytes() == (run / VALUE_HEAD).read_bytes()
    assert same(predictions(run), scored_alone(project, reward_model=merged, reward_model_type="full"))


def test_a_reward_model_of_another_width_is_refused(project: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from tunesmith.errors import ModelError

    model = tiny_model(tmp_path / "model")
    save_file({WEIGHT: torch.zeros(1, 32), BIAS: torch.zeros(1)}, model / VALUE_HEAD)
    with pytest.raises(ModelError, match=r"shape \(1, 32\), the model needs \(1, 64\)"):
        trained(project, "wide", model_name_or_path=model)
