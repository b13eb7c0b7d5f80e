"""Overrides on the command line, in every spelling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from config_settings import refusal

from tunesmith.config.load import load


@pytest.mark.parametrize(
    ("tokens", "values"),
    [
        ("lora_rank=4 learning_rate=1e-5", {"lora_rank": 4, "learning_rate": 1e-5}),
        ("--lora_rank 4 --learning_rate 1e-5", {"lora_rank": 4, "learning_rate": 1e-5}),
        ("--lora_rank=4 --learning-rate=1e-5", {"lora_rank": 4, "learning_rate": 1e-5}),
        ("--plot_loss --bf16 --stage sft", {"plot_loss": True, "bf16": True, "stage": "sft"}),
        ("--plot_loss false --no_packing --no-bf16", {"plot_loss": False, "packing": False, "bf16": False}),
        ("--no_cuda", {"use_cpu": True}),
        ("--dataset a b c --max_steps -1", {"dataset": ("a", "b", "c"), "max_steps": -1}),
        ("--dataset a,b plot_loss=true", {"dataset": ("a", "b"), "plot_loss": True}),
        ("--plot_loss lora_rank=4", {"plot_loss": True, "lora_rank": 4}),
        ("--run_name a=b", {"run_name": "a=b"}),
        ("output_dir=a=b", {"output_dir": "a=b"}),
        ("default_system=", {"default_system": None}),
        ("lr_scheduler_kwargs.min_lr=1e-6 lr_scheduler_kwargs.n=2", {"lr_scheduler_kwargs": {"min_lr": 1e-6, "n": 2}}),
        ("--flash_attn --do_train", {"flash_attn": "auto", "do_train": True}),
    ],
)
def test_every_spelling_is_read(tokens: str, values: dict[str, Any]) -> None:
    assert load(tokens.split()).values == values


def test_the_command_line_wins_over_the_file_and_both_are_remembered(write: Callable[..., Path]) -> None:
    path = write("lora_rank: 8\nseed: 1\n")
    loaded = load([str(path), "lora_rank=4"])
    assert loaded.values == {"lora_rank": 4, "seed": 1}
    assert loaded.settings["lora_rank"].where == "command line, lora_rank"
    assert loaded.settings["seed"].where == f"{path}:2"
    assert loaded.config_file == path


def test_the_last_of_two_overrides_counts() -> None:
    assert load(["lora_rank=4", "--lora_rank", "2"]).values == {"lora_rank": 2}


def test_one_entry_of_a_mapping_in_the_file_can_be_changed(write: Callable[..., Path]) -> None:
    path = write("lr_scheduler_kwargs: {min_lr: 1e-5, power: 2}\n")
    loaded = load([str(path), "lr_scheduler_kwargs.min_lr=1e-7"])
    assert loaded.values["lr_scheduler_kwargs"] == {"min_lr": 1e-7, "power": 2}


def test_several_values_for_a_single_value_are_refused() -> None:
    assert "lora_rank cannot be 4,8" in refusal("--lora_rank", "4", "8").what


@pytest.mark.parametrize("key", ["dataset", "output_dir", "lora_rank", "learning_rate"])
def test_a_bare_flag_is_only_for_switches(key: str) -> None:
    assert refusal(f"--{key}", "--bf16", bare=True).what == f"--{key} needs a value"


@pytest.mark.parametrize(
    ("tokens", "part"),
    [
        ("train.yml.bak", "neither a training file nor a setting"),
        ("lora_rank=4 stray", "'stray' belongs to no key"),
        ("-lora_rank 4", "--lora_rank"),
        ("seed.part=3", "seed is not a mapping"),
    ],
)
def test_a_token_that_belongs_nowhere_is_refused(tokens: str, part: str) -> None:
    assert part in refusal(*tokens.split(), bare=True).render()
