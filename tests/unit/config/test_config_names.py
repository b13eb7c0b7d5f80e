"""Unknown, older and removed names: found by line, explained, never ignored in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from config_settings import refusal, run

from tunesmith.config.load import aliases
from tunesmith.config.older import REMOVED
from tunesmith.config.resolve import resolve
from tunesmith.config.schema import specs
from tunesmith.errors import ConfigError

Write = Callable[..., Path]


def test_an_unknown_key_names_the_line_and_the_nearest_key(write: Write) -> None:
    path = write("stage: sft\nlearnig_rate: 1e-4\n")
    with pytest.raises(ConfigError) as caught:
        resolve([str(path)], verb="train")
    assert caught.value.what == "unknown key 'learnig_rate'"
    assert caught.value.where == f"{path}:2"
    assert "'learning_rate'" in caught.value.fix
    assert caught.value.exit_code == 2


def test_an_unknown_flag_names_the_nearest_key() -> None:
    assert "'lora_rank'" in refusal("--lora_rnk", "3").fix


def test_the_nearest_alias_leads_to_its_key() -> None:
    assert "'eval_strategy'" in refusal("evaluation_stratgy=steps").fix


def test_a_short_name_leads_to_the_keys_that_begin_with_it() -> None:
    assert "'model_name_or_path'" in refusal("model=x").fix


def test_a_name_like_no_other_leads_to_the_reference() -> None:
    assert "config reference" in refusal("zzzzzz=1").fix


@pytest.mark.parametrize("flag", ["1", "true", "Y"])
def test_extra_keys_are_ignored_aloud_when_asked(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", flag)
    notes = run("foo=1", "visual_inputs=true", "lora_rank=4").notes
    assert len(notes) == 2
    assert "foo is not a key" in notes[0]
    assert "ALLOW_EXTRA_ARGS" in notes[0]


def test_extra_keys_are_not_ignored_when_the_switch_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", "0")
    assert "unknown key 'foo'" in refusal("foo=1").what


@pytest.mark.parametrize(
    ("older", "key", "value"),
    [
        ("evaluation_strategy=steps", "eval_strategy", "steps"),
        ("no_cuda=true", "use_cpu", True),
        ("per_gpu_train_batch_size=3", "per_device_train_batch_size", 3),
        ("per_gpu_eval_batch_size=3", "per_device_eval_batch_size", 3),
        ("checkpoint_dir=a,b", "adapter_name_or_path", ("a", "b")),
        ("system_prompt=hi", "default_system", "hi"),
        ("max_seq_length=512", "cutoff_len", 512),
        ("torch_dtype=bf16", "infer_dtype", "bfloat16"),
        ("sft_packing=true", "packing", True),
        ("name_module_trainable=mlp", "freeze_trainable_modules", ("mlp",)),
    ],
)
def test_an_older_spelling_is_read_with_a_note(older: str, key: str, value: object) -> None:
    extra = ["val_size=0.1"] if key == "eval_strategy" else []
    resolved = run(older, *extra)
    assert getattr(resolved.config, key) == value
    assert any(f"older spelling of {key}" in note for note in resolved.notes)


def test_every_alias_leads_to_its_key() -> None:
    older = {alias: key for alias, key in aliases().items() if alias not in specs()[key].short}
    assert len(older) > 20
    assert all(f"older spelling of {key}" in _notes_or_error(alias) for alias, key in older.items())


@pytest.mark.parametrize(("short", "key"), [("name", "identity_name"), ("author", "identity_author")])
def test_a_short_name_is_as_good_as_the_key(short: str, key: str) -> None:
    resolved = run(f"{short}=Mofei")
    assert getattr(resolved.config, key) == "Mofei"
    assert not resolved.notes


def _notes_or_error(alias: str) -> str:
    """What is said about an alias given a value that its key refuses or takes."""
    from tunesmith.config.load import load

    for value in ("true", "3", "text", "sigmoid", "nccl", '{"a": 1}', "steps", "auto"):
        try:
            return " ".join(load([f"{alias}={value}"]).notes)
        except ConfigError:
            continue
    return ""


def test_an_older_value_is_read_with_a_note() -> None:
    resolved = run("--flash_attn", "--optim", "adamw_hf")
    assert (resolved.config.flash_attn, resolved.config.optim) == ("auto", "adamw_torch")
    assert sum("older spelling" in note for note in resolved.notes) == 2


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_key_says_what_takes_its_place(name: str) -> None:
    error = refusal(f"{name}=1")
    assert error.what == f"{name} no longer exists"
    assert error.fix == REMOVED[name]


def test_a_key_and_its_alias_in_one_file_are_a_contradiction(write: Write) -> None:
    path = write("eval_strategy: steps\nevaluation_strategy: epoch\n")
    with pytest.raises(ConfigError, match="same setting"):
        resolve([str(path)], verb="train")
