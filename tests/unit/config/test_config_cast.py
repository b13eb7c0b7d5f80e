"""Values are read by the type of their key, however they are written."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.config.cast import cast, show
from tunesmith.config.schema import specs
from tunesmith.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("learning_rate", "1e-5", 1e-5),
        ("learning_rate", "5.0e-05", 5e-5),
        ("learning_rate", 2e-4, 2e-4),
        ("num_train_epochs", "3", 3.0),
        ("lora_rank", "16", 16),
        ("lora_rank", "16.0", 16),
        ("cutoff_len", "1_024", 1024),
        ("max_samples", "1e3", 1000),
        ("seed", "010", 10),
        ("packing", "True", True),
        ("packing", "off", False),
        ("packing", 1, True),
        ("packing", "null", None),
        ("packing", None, None),
        ("eval_strategy", "no", "no"),
        ("eval_strategy", False, "no"),
        ("report_to", "none", ("none",)),
        ("report_to", None, ()),
        ("run_name", "none", None),
        ("run_name", 123, "123"),
        ("dataset", "a, b,", ("a", "b")),
        ("dataset", ["a", "b"], ("a", "b")),
        ("dataset", '["a", "b"]', ("a", "b")),
        ("dataset", "", ()),
        ("lora_target", "all", ("all",)),
        ("interleave_probs", "0.3, 0.7", (0.3, 0.7)),
        ("lr_scheduler_kwargs", '{"min_lr": 1e-6}', {"min_lr": 1e-6}),
        ("lr_scheduler_kwargs", {"num_cycles": 2}, {"num_cycles": 2}),
        ("save_steps", "500", 500),
        ("save_steps", "0.1", 0.1),
        ("resume_from_checkpoint", "true", True),
        ("resume_from_checkpoint", "saves/checkpoint-10", "saves/checkpoint-10"),
        ("resume_from_checkpoint", "1", "1"),
        ("flash_attn", True, "auto"),
        ("flash_attn", "off", "disabled"),
        ("optim", "adamw_hf", "adamw_torch"),
        ("include_num_input_tokens_seen", "all", True),
        ("include_num_input_tokens_seen", "no", False),
    ],
)
def test_a_value_is_read_by_the_type_of_its_key(key: str, raw: Any, value: Any) -> None:
    typed = cast(specs()[key], raw)
    assert typed == value
    assert type(typed) is type(value)


@pytest.mark.parametrize(
    ("key", "raw", "expected"),
    [
        ("learning_rate", "fast", "a number, at least 0"),
        ("learning_rate", "nan", "a number"),
        ("learning_rate", "inf", "a number"),
        ("learning_rate", None, "a number"),
        ("lora_rank", "8.5", "a whole number, above 0"),
        ("lora_rank", ["8"], "a whole number"),
        ("packing", "perhaps", "true or false (or null)"),
        ("output_dir", ["a", "b"], "text (or null)"),
        ("dataset", {"a": "b"}, "a list of names"),
        ("dataset", ["a", None], "a list of names"),
        ("lr_scheduler_kwargs", "min_lr=1", "a mapping (or null)"),
        ("lr_scheduler_kwargs", "{broken", "a mapping (or null)"),
        ("stage", "sftt", "one of pt, sft"),
        ("report_to", ["none", "wandbb"], "any of none, wandb"),
    ],
)
def test_a_wrong_value_says_what_was_given_where_and_what_is_expected(key: str, raw: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cast(specs()[key], raw, "train.yaml:7")
    assert caught.value.where == "train.yaml:7"
    assert key in caught.value.what
    assert expected in caught.value.why


def test_the_nearest_choice_is_suggested() -> None:
    with pytest.raises(ConfigError) as caught:
        cast(specs()["lr_scheduler_type"], "cosin")
    assert caught.value.fix == "Did you mean 'cosine'?"


def test_a_secret_is_never_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        cast(specs()["hf_hub_token"], ["hf_secret", "x"])
    assert "hf_secret" not in caught.value.render()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (("a", "b"), "a,b"),
        ((), "(none)"),
        (5e-05, "5e-05"),
        ("", '""'),
        ({"a": "中"}, '{"a": "中"}'),
    ],
)
def test_values_are_shown_as_they_are_written(value: Any, text: str) -> None:
    assert show(value) == text
