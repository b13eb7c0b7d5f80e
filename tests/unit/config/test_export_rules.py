"""What an export may be asked for together, each rule broken alone; and what is said about keys that act on nothing."""

from __future__ import annotations

import pytest
from config_settings import refusal, run

from tunesmith.config.export_rules import CALIBRATED, EXPORT_NOTES, EXPORT_RULES
from tunesmith.config.fields.export import EXPORT_BITS
from tunesmith.config.schema import specs

# rule -> (settings that break it, settings that repair it)
BROKEN: dict[str, tuple[str, str]] = {
    "the export method has the bits": (
        "export_quantization_bit=3 export_quantization_method=bnb",
        "export_quantization_bit=4",
    ),
    "calibration needs rows": ("export_quantization_bit=4", "export_quantization_dataset=rows.jsonl"),
}
QUANTIZED = "export_quantization_bit=4 export_quantization_dataset=rows.jsonl"
# note -> settings under which it applies, and what makes it go away
NOTED: dict[str, tuple[str, str]] = {
    "export_quantization_dataset without calibration": ("export_quantization_dataset=rows.jsonl", QUANTIZED),
    "export_quantization_nsamples without calibration": ("export_quantization_nsamples=8", QUANTIZED),
    "export_quantization_maxlen without calibration": ("export_quantization_maxlen=64", QUANTIZED),
    "export_quantization_method without bits": ("export_quantization_method=gptq", QUANTIZED),
    "export_hub without a repository": ("export_hub=modelscope", "export_hub_model_id=a/b"),
    "export_hub_private without a repository": ("export_hub_private=true", "export_hub_model_id=a/b"),
}


def test_every_rule_and_note_has_a_case() -> None:
    assert {rule.name for rule in EXPORT_RULES} == set(BROKEN)
    assert {note.name for note in EXPORT_NOTES} == set(NOTED)


@pytest.mark.parametrize("rule", EXPORT_RULES, ids=lambda rule: rule.name)
def test_a_broken_rule_is_refused_and_its_repair_accepted(rule) -> None:
    fault, repair = BROKEN[rule.name]
    error = refusal("export_dir=e", *fault.split(), verb="export")
    assert error.fix == rule.fix
    assert "{" not in error.what
    assert set(rule.keys) <= specs().keys()
    assert run("export_dir=e", *fault.split(), *repair.split(), verb="export").problems == ()
    assert run(*fault.split(), verb="train").problems == (), "a training file may say how it will be exported"


@pytest.mark.parametrize("note", EXPORT_NOTES, ids=lambda note: note.name)
def test_a_key_that_acts_on_nothing_is_said_and_only_then(note) -> None:
    idle, cure = NOTED[note.name]
    assert note.text in run("export_dir=e", *idle.split(), verb="export").notes
    assert note.text not in run("export_dir=e", *idle.split(), *cure.split(), verb="export").notes


@pytest.mark.parametrize("method", EXPORT_BITS)
@pytest.mark.parametrize("bits", range(2, 9))
def test_each_method_takes_its_own_bits_only(method: str, bits: int) -> None:
    rows = ("export_quantization_dataset=rows.jsonl",) if method in CALIBRATED else ()
    settings = ("export_dir=e", f"export_quantization_method={method}", f"export_quantization_bit={bits}", *rows)
    if bits in EXPORT_BITS[method]:
        assert run(*settings, verb="export").config.export_quantization_bit == bits
    else:
        assert f"{method} has no {bits} bits" in refusal(*settings, verb="export").what
