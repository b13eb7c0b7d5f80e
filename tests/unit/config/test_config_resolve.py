"""Decisions, origins and what `Resolved` offers the other parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from config_settings import RUNNABLE, run

from tunesmith.config.resolve import Origin, resolve
from tunesmith.config.schema import specs


@pytest.mark.parametrize(
    ("tokens", "key", "value", "why"),
    [
        ("lora_rank=32", "lora_alpha", 64, "twice lora_rank"),
        ("neat_packing=true packing=false", "packing", True, "neat_packing asks for it"),
        ("oft_rank=4", "oft_block_size", 0, "oft_rank sets the number of blocks, and with it their size"),
        (
            "finetuning_type=oft lora_target=q_proj",
            "oft_target",
            ("q_proj",),
            "as lora_target, which the public tool reads for OFT",
        ),
        ("add_special_tokens=<a>", "resize_vocab", True, "new tokens need rows in the embeddings"),
        ("add_tokens=a", "resize_vocab", True, "new tokens need rows in the embeddings"),
        ("new_special_tokens_config=t.yaml", "resize_vocab", True, "new tokens need rows in the embeddings"),
        ("", "packing", False, "the usual choice for stage sft"),
        ("", "do_train", True, "the verb is train and nothing else is asked for"),
        ("val_size=0.1", "do_eval", True, "there is evaluation data; it is evaluated once, when training ends"),
        ("val_size=0.1 eval_strategy=epoch", "do_eval", True, "eval_strategy is epoch"),
        ("val_size=0.1 eval_strategy=steps logging_steps=7", "eval_steps", 7, "as logging_steps"),
        ("per_device_train_batch_size=3", "per_device_eval_batch_size", 3, "as the training batch"),
        (
            "val_size=0.1 eval_strategy=epoch",
            "metric_for_best_model",
            "loss",
            "the evaluation loss is the usual measure",
        ),
        ("metric_for_best_model=eval_loss", "greater_is_better", False, "metric_for_best_model is eval_loss"),
        (
            "metric_for_best_model=accuracy compute_accuracy=true",
            "greater_is_better",
            True,
            "metric_for_best_model is accuracy",
        ),
        ("warmup_steps=0.1", "warmup_ratio", 0.1, "warmup_steps below 1 is a share of all steps"),
        ("warmup_steps=0.1", "warmup_steps", 0, "given as a share; see warmup_ratio"),
        ("warmup_steps=5 warmup_ratio=0.1", "warmup_ratio", 0.0, "warmup_steps is set and takes precedence"),
        (
            "disable_gradient_checkpointing=true",
            "gradient_checkpointing",
            False,
            "disable_gradient_checkpointing is set",
        ),
        ("seed=7", "data_seed", 7, "as seed"),
    ],
)
def test_what_is_left_open_is_decided_with_a_reason(tokens: str, key: str, value: Any, why: str) -> None:
    resolved = run(*tokens.split())
    assert getattr(resolved.config, key) == value
    assert resolved.origins[key].kind == "decided"
    assert resolved.origins[key].why == why


@pytest.mark.parametrize(
    ("tokens", "key", "value"),
    [
        ("lora_rank=32 lora_alpha=16", "lora_alpha", 16),
        ("packing=true", "packing", True),
        ("do_train=false do_eval=true val_size=0.1", "do_train", False),
        ("val_size=0.1 do_train=true do_eval=false", "do_eval", False),
        ("val_size=0.1 eval_strategy=steps eval_steps=9", "eval_steps", 9),
        ("per_device_eval_batch_size=5", "per_device_eval_batch_size", 5),
        ("warmup_steps=5", "warmup_steps", 5),
        ("warmup_ratio=0.1", "warmup_ratio", 0.1),
        ("seed=7 data_seed=8", "data_seed", 8),
    ],
)
def test_what_the_user_sets_stays(tokens: str, key: str, value: Any) -> None:
    resolved = run(*tokens.split())
    assert getattr(resolved.config, key) == value
    assert resolved.origins[key].kind == "flag"


def test_do_train_is_not_decided_for_other_verbs() -> None:
    assert run(verb="chat").config.do_train is False


def test_every_key_has_an_origin(write: Callable[..., Path]) -> None:
    path = write("model_name_or_path: m\noutput_dir: o\ndataset: d\n")
    resolved = resolve([str(path), "seed=1"], verb="train")
    assert resolved.origins.keys() == specs().keys()
    assert resolved.origins["dataset"] == Origin("file", f"{path}:3")
    assert resolved.origins["seed"] == Origin("flag", "command line, seed")
    assert resolved.origins["template"] == Origin("default")
    assert (resolved.given("dataset"), resolved.given("template")) == (True, False)


def test_the_folder_of_the_file_is_known_and_without_one_the_working_directory(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write("model_name_or_path: m\noutput_dir: o\ndataset: d\n")
    assert resolve([str(path)], verb="train").config_dir == tmp_path.resolve()
    monkeypatch.chdir(tmp_path)
    resolved = resolve(RUNNABLE, verb="train")
    assert (resolved.config_file, resolved.config_dir) == (None, Path.cwd())


def test_a_later_decision_is_recorded_and_the_first_result_unchanged() -> None:
    before = run()
    after = before.replace("micro_batch_tokens", 4096, "what fits in memory")
    assert after.config.micro_batch_tokens == 4096
    assert after.origins["micro_batch_tokens"] == Origin("decided", why="what fits in memory")
    assert before.config.micro_batch_tokens is None
    with pytest.raises(KeyError):
        before.replace("no_such_key", 1, "")


def test_the_effective_values_are_plain_data_without_secrets() -> None:
    values = run("hf_hub_token=hf_secret", "dataset=a,b").effective()
    assert values["dataset"] == ["a", "b"]
    assert values["hf_hub_token"] is None
    assert "hf_secret" not in json.dumps(values)
    assert values.keys() == specs().keys()


def test_the_effective_values_written_out_are_the_same_configuration(write: Callable[..., Path]) -> None:
    first = run("val_size=0.1", "eval_strategy=steps", "lora_target=q_proj,v_proj", "warmup_steps=0.1")
    path = write(json.dumps(first.effective()), "run.json")
    assert resolve([str(path)], verb="train").config == first.config
    import yaml

    path = write(yaml.safe_dump(first.effective()), "run.yaml")
    assert resolve([str(path)], verb="train").config == first.config
