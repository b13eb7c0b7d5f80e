"""Each rule is broken once, alone, by a configuration that differs from a sound one by the fault only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import method_rule_cases
import optimizer_rule_cases
import preference_rule_cases
import pytest
import reward_rule_cases
from config_settings import RUNNABLE, refusal, run

from tunesmith.config.quantization_rules import QUANTIZATION_NOTES, QUANTIZATION_RULES
from tunesmith.config.resolve import resolve
from tunesmith.config.rules import NOTES as ALL_NOTES
from tunesmith.config.rules import RULES as ALL_RULES
from tunesmith.config.schema import specs

# those of quantization have a file of their own, test_quantization_rules.py
RULES = tuple(rule for rule in ALL_RULES if rule not in QUANTIZATION_RULES)
NOTES = tuple(note for note in ALL_NOTES if note not in QUANTIZATION_NOTES)
EVAL = "val_size=0.1 eval_strategy=steps"
# rule -> (verb, settings that break it, settings that repair it)
BROKEN: dict[str, tuple[str, str, str]] = {
    "a model is named": ("chat", "model_name_or_path=null", "model_name_or_path=m"),
    "a run has a folder": ("train", "output_dir=null", "output_dir=o"),
    "something is to be done": ("train", "do_train=false", "do_train=true"),
    "training has data": ("train", "dataset=null do_train=true", "dataset=d"),
    "a held-out share has data to be taken from": (
        "train",
        "dataset=null do_train=false do_eval=true val_size=0.1",
        "dataset=d",
    ),
    "a held-out share below 1 or a whole number of rows": ("train", "val_size=1.5", "val_size=2"),
    "evaluation data from one source": ("train", "val_size=0.1 eval_dataset=e", "val_size=0"),
    "evaluation has data": ("train", "eval_strategy=steps", "eval_dataset=e"),
    "separate evaluation needs evaluation datasets": ("train", "eval_on_each_dataset=true", "eval_dataset=e"),
    "the best model is known by evaluation": (
        "train",
        "val_size=0.1 load_best_model_at_end=true",
        "eval_strategy=epoch",
    ),
    "the best model is saved": ("train", f"{EVAL} load_best_model_at_end=true save_strategy=no", "save_strategy=steps"),
    "early stopping needs evaluation": ("train", "val_size=0.1 early_stopping_steps=3", "eval_strategy=epoch"),
    "the metric of the best model is measured": (
        "train",
        f"{EVAL} metric_for_best_model=accuracy",
        "compute_accuracy=true",
    ),
    "one half precision": ("train", "fp16=true bf16=true", "bf16=false"),
    "one way to mask the prompt": ("train", "mask_history=true train_on_prompt=true", "mask_history=false"),
    "adapters belong to LoRA": ("train", "finetuning_type=full adapter_name_or_path=a", "finetuning_type=lora"),
    "gradient checkpointing on or off": (
        "train",
        "gradient_checkpointing=true disable_gradient_checkpointing=true",
        "gradient_checkpointing=null",
    ),
    "offloading checkpointing on or off": (
        "train",
        "use_unsloth_gc=true disable_gradient_checkpointing=true",
        "disable_gradient_checkpointing=false",
    ),
    "random weights are all trained": (
        "train",
        "train_from_scratch=true finetuning_type=lora",
        "finetuning_type=full",
    ),
    "shifted attention chooses its kernel": ("train", "shift_attn=true flash_attn=disabled", "flash_attn=auto"),
    "frozen training trains something": (
        "train",
        "finetuning_type=freeze freeze_trainable_layers=0",
        "freeze_extra_modules=embed_tokens",
    ),
    "a run is continued or begun": (
        "train",
        "overwrite_output_dir=true resume_from_checkpoint=true",
        "resume_from_checkpoint=null",
    ),
    "a length limit for answers": ("chat", "max_new_tokens=0", "max_length=100"),
    "an export has a folder": ("export", "export_dir=null", "export_dir=e"),
    **method_rule_cases.BROKEN,
    **optimizer_rule_cases.BROKEN,
    **preference_rule_cases.BROKEN,
    **reward_rule_cases.BROKEN,
}
NOTED: dict[str, str] = {
    "checkpointing without offloading": "use_unsloth_gc=true",
    "steps replace epochs": "max_steps=10 num_train_epochs=2",
    "no evaluation interval without a strategy": "eval_steps=10",
    "no save interval without a strategy": "save_strategy=epoch save_steps=10",
    "a run without optimizer cannot be resumed": "save_only_model=true",
    "the same rows in both sets": "eval_dataset=d",
    "a new adapter on nothing": "create_new_adapter=true",
    "warmup as long as the run": "max_steps=10 warmup_steps=10",
    "evaluation data without evaluation": "val_size=0.1 do_train=true do_eval=false",
    **method_rule_cases.NOTED,
    **optimizer_rule_cases.NOTED,
    **preference_rule_cases.NOTED,
    **reward_rule_cases.NOTED,
}


def test_every_rule_and_note_has_a_case() -> None:
    assert {rule.name for rule in RULES} == set(BROKEN)
    assert {note.name for note in NOTES} == set(NOTED)
    assert len({rule.name for rule in RULES}) == len(RULES) >= 22
    assert len({rule.name for rule in ALL_RULES}) == len(ALL_RULES) == len(RULES) + len(QUANTIZATION_RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_broken_rule_is_refused_and_its_repair_accepted(rule: object) -> None:
    verb, fault, repair = BROKEN[rule.name]  # type: ignore[attr-defined]
    error = refusal(*fault.split(), verb=verb)
    assert error.what == rule.what.format(**_values(verb, fault))  # type: ignore[attr-defined]
    assert error.fix == rule.fix  # type: ignore[attr-defined]
    assert run(*fault.split(), *repair.split(), verb=verb).problems == ()


def _values(verb: str, fault: str) -> dict[str, object]:
    return resolve([*RUNNABLE, *fault.split()], verb=verb, collect=True).config.__dict__


@pytest.mark.parametrize("note", NOTES, ids=lambda note: note.name)
def test_advice_is_given_when_it_applies_and_only_then(note: object) -> None:
    resolved = run(*NOTED[note.name].split())  # type: ignore[attr-defined]
    assert note.text.format(**resolved.config.__dict__) in resolved.notes  # type: ignore[attr-defined]
    assert run().notes == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rules_name_existing_keys(rule: object) -> None:
    assert set(rule.keys) <= specs().keys()  # type: ignore[attr-defined]


def test_rules_of_training_do_not_concern_chat(write: Callable[..., Path]) -> None:
    path = write("model_name_or_path: m\nfp16: true\nbf16: true\nval_size: 0.1\neval_dataset: e\ndo_train: true\n")
    assert resolve([str(path)], verb="chat").problems == ()
    assert resolve([str(path), "export_dir=e"], verb="export").problems == ()


def test_the_message_names_the_lines_of_the_keys_at_fault(write: Callable[..., Path]) -> None:
    path = write("model_name_or_path: m\nfp16: true\ndataset: d\nbf16: true\noutput_dir: o\n")
    error = refusal(str(path), bare=True)
    assert error.where == f"{path}:2, fp16; {path}:4, bf16"


def test_all_broken_rules_can_be_collected() -> None:
    problems = resolve(["fp16=true", "bf16=true", "do_train=true"], verb="train", collect=True).problems
    assert len(problems) == 4


def test_keys_of_another_finetuning_type_are_noted() -> None:
    notes = run("finetuning_type=full", "lora_rank=4", "freeze_trainable_layers=3").notes
    assert notes == ["lora_rank, freeze_trainable_layers: not read by finetuning_type full"]


def test_one_reason_makes_one_note() -> None:
    notes = run("use_unsloth=true", "enable_liger_kernel=true", "overwrite_cache=true").notes
    assert len(notes) == 2
    assert notes[0].startswith("use_unsloth, enable_liger_kernel: ")


def test_keys_of_another_stage_are_noted() -> None:
    assert run("teacher_model=t", "ppo_epochs=2").notes == ["teacher_model, ppo_epochs: not read by stage sft"]
    assert run("pref_loss=ipo", "kto_chosen_weight=2").notes == ["pref_loss, kto_chosen_weight: not read by stage sft"]
    assert run("stage=kto", "kto_chosen_weight=2").notes == []


def test_the_rules_know_the_preference_losses_as_the_losses_are() -> None:
    from tunesmith.config import rules_preferences as names
    from tunesmith.loss.preference import PREFERENCE_LOSSES

    assert set(PREFERENCE_LOSSES) == set(specs()["pref_loss"].choices)
    by_table = {
        names.WITHOUT_REFERENCE: lambda loss: not loss.needs_reference,
        names.SMOOTHED: lambda loss: loss.smoothing != "unused",
        names.DIVIDED_BY_BETA: lambda loss: loss.divides_by_beta,
    }
    for listed, holds in by_table.items():
        assert set(listed) == {name for name, loss in PREFERENCE_LOSSES.items() if holds(loss)}


def test_the_label_smoothing_of_exo_is_decided_openly() -> None:
    resolved = run("stage=dpo", "pref_loss=exo_pair")
    assert resolved.config.dpo_label_smoothing == 1e-3
    assert resolved.origins["dpo_label_smoothing"].kind == "decided"
    assert run("stage=dpo").config.dpo_label_smoothing == 0


def test_the_accuracy_of_a_reward_model_needs_no_further_setting() -> None:
    given = "stage=rm val_size=0.1 eval_strategy=epoch save_strategy=epoch load_best_model_at_end=true"
    assert run(*given.split(), "metric_for_best_model=accuracy").problems == ()
