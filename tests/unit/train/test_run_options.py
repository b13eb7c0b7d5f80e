"""Options of when a run logs, evaluates and reports: each of them changes what is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import history, run_training, write_project
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.config.resolve import resolve
from tunesmith.train.rewards.sources import rewards_from_config

SIX_STEPS: dict[str, Any] = {"max_steps": 6, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
EVALUATED: dict[str, Any] = {**SIX_STEPS, "val_size": 0.25, "eval_strategy": "steps", "eval_steps": 2}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("options"), num_rows=24)


def _steps(run: Path, key: str) -> list[int]:
    """At which steps a key was logged."""
    records = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [record["step"] for record in records if key in record]


def _results(run: Path, file: str = "train_results.json") -> dict[str, float]:
    return dict(json.loads((run / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("settings", "logged_at"),
    [
        ({"logging_steps": 3}, [3, 6]),
        ({"logging_steps": 3, "logging_first_step": True}, [1, 3, 6]),
        ({"logging_steps": 0.5}, [3, 6]),
        ({"logging_steps": 1, "logging_strategy": "epoch"}, [6]),
        ({"logging_strategy": "no"}, []),
    ],
)
def test_when_the_loss_is_logged(project: Path, settings: dict[str, Any], logged_at: list[int], tmp_path: Path) -> None:
    run = run_training(project, str(tmp_path), **{**SIX_STEPS, **settings})
    assert _steps(run, "loss") == logged_at


@pytest.mark.parametrize(
    ("settings", "evaluated_at"),
    [
        ({}, [2, 4, 6]),
        ({"eval_on_start": True}, [0, 2, 4, 6]),
        ({"eval_delay": 3}, [4, 6]),
        ({"eval_strategy": "epoch", "max_steps": 10}, [5, 10]),
        ({"eval_strategy": "epoch", "max_steps": 10, "eval_delay": 1.1}, [10]),
        ({"eval_strategy": "no", "do_eval": True}, []),
    ],
)
def test_when_it_is_evaluated(project: Path, settings: dict[str, Any], evaluated_at: list[int], tmp_path: Path) -> None:
    run = run_training(project, str(tmp_path), **{**EVALUATED, **settings})
    assert _steps(run, "eval_loss") == evaluated_at


@pytest.mark.parametrize("do_eval", [True, False])
def test_a_last_evaluation_is_written_when_asked_for(project: Path, do_eval: bool, tmp_path: Path) -> None:
    run = run_training(project, str(tmp_path), **{**EVALUATED, "eval_strategy": "no"}, do_eval=do_eval)
    assert (run / "eval_results.json").is_file() is do_eval


def test_the_last_evaluation_is_of_the_final_model(project: Path, tmp_path: Path) -> None:
    run = run_training(project, str(tmp_path), **EVALUATED)
    assert _results(run, "eval_results.json")["eval_loss"] == pytest.approx(history(run, "eval_loss")[-1])


def test_the_first_evaluation_is_of_the_untrained_model(project: Path, tmp_path: Path) -> None:
    runs = [
        run_training(project, str(tmp_path / str(rate)), **EVALUATED, eval_on_start=True, learning_rate=rate)
        for rate in (1e-3, 1e-2)
    ]
    first, last = ([history(run, "eval_loss")[place] for run in runs] for place in (0, -1))
    assert first[0] == first[1]
    assert last[0] != last[1]


def test_token_accuracy_is_that_of_the_saved_model(project: Path, tmp_path: Path) -> None:
    lesson: dict[str, Any] = {"finetuning_type": "full", "eval_dataset": "rows", "compute_accuracy": True}
    few = {**EVALUATED, "val_size": 0, "max_steps": 20, "eval_steps": 20, "learning_rate": 1e-2, **lesson}
    run = run_training(project, str(tmp_path), **few, do_eval=True)
    tokenizer = AutoTokenizer.from_pretrained(run)
    model = AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32)
    rows = json.loads((project / "data" / "rows.json").read_text(encoding="utf-8"))
    right = total = 0
    for row in rows:
        prompt = f"<|im_start|>user\n{row['instruction']}<|im_end|>\n<|im_start|>assistant\n"
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer_ids = tokenizer(f"{row['output']}<|im_end|>", add_special_tokens=False)["input_ids"]
        guesses = model(torch.tensor([prompt_ids + answer_ids])).logits[0, len(prompt_ids) - 1 : -1].argmax(dim=-1)
        right += int((guesses == torch.tensor(answer_ids)).sum())
        total += len(answer_ids)
    assert 0.05 < right / total < 0.95
    assert history(run, "eval_accuracy")[-1] == pytest.approx(right / total, abs=1.5 / total)


def test_read_tokens_are_reported_when_asked_for(project: Path, tmp_path: Path) -> None:
    runs = [
        run_training(project, str(tmp_path / str(asked)), **SIX_STEPS, include_num_input_tokens_seen=asked)
        for asked in (True, False)
    ]
    state = json.loads((runs[0] / "trainer_state.json").read_text(encoding="utf-8"))
    assert _results(runs[0])["num_input_tokens_seen"] == state["num_input_tokens_seen"] > 0
    assert "num_input_tokens_seen" not in _results(runs[1])


def test_full_determinism_forbids_what_is_not_deterministic(project: Path, tmp_path: Path) -> None:
    try:
        run_training(project, str(tmp_path), **{**SIX_STEPS, "max_steps": 1}, full_determinism=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_patience_with_an_endpoint_is_the_one_that_was_set(tmp_path: Path) -> None:
    settings = ["stage=ppo", "do_train=true", "finetuning_type=lora", "dataset=d", "template=default", "output_dir=o"]
    endpoint = ["reward_model=http://127.0.0.1:9", "reward_model_type=api", "reward_timeout_s=7"]
    config = resolve(["model_name_or_path=m", *settings, *endpoint], verb="train").config
    (source,) = rewards_from_config(config, tmp_path).sources
    assert source.timeout_s == 7
