"""What may not stand beside `quantization_bit`, each broken alone; and what is said about keys that act on nothing."""

from __future__ import annotations

import pytest
from config_settings import refusal, run

from tunesmith.config import resolve as resolving
from tunesmith.config.quantization_rules import QUANTIZATION_NOTES, QUANTIZATION_RULES
from tunesmith.config.schema import specs

# rule -> (verb, settings that break it, settings that repair it)
BROKEN: dict[str, tuple[str, str, str]] = {
    "the method quantizes while loading": (
        "train",
        "quantization_bit=4 quantization_method=gptq",
        "quantization_method=bnb",
    ),
    "the method has the bits": ("chat", "quantization_bit=3", "quantization_method=hqq"),
    "a quantized base is trained through adapters": (
        "train",
        "quantization_bit=4 finetuning_type=full",
        "finetuning_type=lora",
    ),
    "PiSSA needs weights that can be changed": ("train", "quantization_bit=4 pissa_init=true", "pissa_init=false"),
    "a quantized model keeps its vocabulary": ("train", "quantization_bit=4 resize_vocab=true", "resize_vocab=false"),
    "one adapter on a quantized base": (
        "chat",
        "quantization_bit=4 adapter_name_or_path=a,b",
        "adapter_name_or_path=a",
    ),
    "an adapter on a quantized base is continued": (
        "train",
        "quantization_bit=4 adapter_name_or_path=a create_new_adapter=true",
        "create_new_adapter=false",
    ),
    "a spread model is not trained": (
        "train",
        "quantization_bit=4 quantization_device_map=auto",
        "quantization_device_map=null",
    ),
    "a spread model is in 4 bits of bitsandbytes": (
        "chat",
        "quantization_bit=8 quantization_device_map=auto",
        "quantization_bit=4",
    ),
    "nothing is merged into a quantized base": ("export", "export_dir=e quantization_bit=4", "quantization_bit=null"),
}


@pytest.fixture(autouse=True)
def _every_key_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules are tested here whether or not the other key of a rule can be used yet."""
    monkeypatch.setattr(resolving, "check_availability", lambda loaded, verb: [])


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in QUANTIZATION_RULES} == set(BROKEN)
    assert len(BROKEN) == len(QUANTIZATION_RULES) == 10


@pytest.mark.parametrize("rule", QUANTIZATION_RULES, ids=lambda rule: rule.name)
def test_a_broken_rule_is_refused_and_its_repair_accepted(rule) -> None:
    verb, fault, repair = BROKEN[rule.name]
    error = refusal(*fault.split(), verb=verb)
    assert error.fix == rule.fix
    assert "{" not in error.what
    assert set(rule.keys) <= specs().keys()
    assert error.exit_code == 2
    assert run(*fault.split(), *repair.split(), verb=verb).problems == ()


@pytest.mark.parametrize("method", ["gptq", "awq", "aqlm", "quanto", "eetq", "mxfp4", "fp8"])
def test_each_format_that_is_not_made_while_loading_is_refused_by_name(method: str) -> None:
    assert f"quantization_method {method} cannot" in refusal("quantization_bit=4", f"quantization_method={method}").what


@pytest.mark.parametrize(
    ("method", "bits", "allowed"),
    [
        *(("bnb", bits, bits in (4, 8)) for bits in range(1, 9)),
        *(("hqq", bits, bits != 7) for bits in range(1, 9)),
        *(("torchao", bits, bits in (4, 8)) for bits in range(1, 9)),
    ],
)
def test_each_method_takes_its_own_bits_only(method: str, bits: int, allowed: bool) -> None:
    settings = (f"quantization_method={method}", f"quantization_bit={bits}")
    if allowed:
        assert run(*settings).config.quantization_bit == bits
    else:
        assert f"{method} has no {bits} bits" in refusal(*settings).what


@pytest.mark.parametrize("key", ["add_tokens", "add_special_tokens", "new_special_tokens_config"])
def test_no_key_that_grows_the_vocabulary_stands_beside_quantization(key: str) -> None:
    assert "not resized" in refusal("quantization_bit=4", f"{key}=<new>").what


def test_a_key_without_quantization_says_that_it_acts_on_nothing() -> None:
    notes = run("quantization_method=hqq", "quantization_type=fp4", "double_quantization=false").notes
    assert [note.split()[0] for note in notes] == ["quantization_method", "quantization_type", "double_quantization"]
    assert all("quantization_bit is not set" in note for note in notes)


def test_a_key_of_four_bit_bitsandbytes_is_noted_beside_another_method() -> None:
    settings = ("quantization_bit=8", "quantization_type=fp4")
    assert run(*settings).notes == ["quantization_type has no effect: bnb at 4 bits reads it, and here it is bnb at 8"]
    assert run("quantization_bit=4", "quantization_type=fp4", "double_quantization=false").notes == []
    assert len(QUANTIZATION_NOTES) == 5


def test_a_file_of_a_quantized_run_is_merged_once_the_bits_are_taken_away() -> None:
    file = ("quantization_bit=4", "quantization_method=bnb", "export_dir=e")
    assert "quantization_bit=null" in refusal(*file, verb="export").fix
    assert run(*file, "quantization_bit=null", verb="export").config.quantization_bit is None
