"""The schema holds the whole public vocabulary, and every option is described completely."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from config_settings import refusal, run
from public_keys import HUGGING_FACE, LISTED, NUM_DECLARED, NUM_DISTINCT, OWN, SECTIONS

from tunesmith.config import Config
from tunesmith.config.cast import cast
from tunesmith.config.load import aliases
from tunesmith.config.older import REMOVED
from tunesmith.config.schema import specs
from tunesmith.config.spec import FieldSpec, read_fields
from tunesmith.errors import ConfigError

PUBLIC = {key: default for section in SECTIONS.values() for key, default in section.items()}
LATER = [spec for spec in specs().values() if spec.later]
LATER_CHOICES = [(spec, choice) for spec in specs().values() for choice in spec.later_choices]
WITH_CHOICES = [spec for spec in specs().values() if spec.choices]
WITH_BOUNDS = [spec for spec in specs().values() if spec.bounds()]
NOOP = [spec for spec in specs().values() if spec.noop]


def test_the_hand_written_list_is_complete() -> None:
    assert sum(len(section) for section in SECTIONS.values()) == NUM_DECLARED
    assert len(PUBLIC) == NUM_DISTINCT


def test_every_public_key_exists_and_nothing_was_lost() -> None:
    known = {**PUBLIC, **HUGGING_FACE, **OWN}
    assert not known.keys() - specs().keys()


@pytest.mark.parametrize(("key", "default"), {**PUBLIC, **HUGGING_FACE, **OWN}.items())
def test_defaults_are_those_of_the_public_tools(key: str, default: Any) -> None:
    actual = getattr(Config(), key)
    if default is LISTED:
        assert isinstance(actual, tuple)
    else:
        assert actual == default
        assert type(actual) is type(default)


def test_every_option_has_help_in_both_languages() -> None:
    for spec in specs().values():
        assert re.fullmatch(r"[A-Z0-9].*\.", spec.en), spec.name
        assert spec.zh.endswith("。"), spec.name
        assert re.search(r"[一-鿿]", spec.zh), spec.name
        assert not re.search(r"[一-鿿]", spec.en), spec.name


def test_every_default_is_a_valid_value() -> None:
    for spec in specs().values():
        if spec.default not in (None, ()):
            assert cast(spec, spec.default) == spec.default, spec.name


def test_no_alias_or_removed_key_hides_a_key() -> None:
    assert len(aliases()) >= 25
    assert not aliases().keys() & specs().keys()
    assert not REMOVED.keys() & (specs().keys() | aliases().keys())
    assert len(aliases()) == sum(len(spec.aliases) for spec in specs().values())


def _other_value(spec: FieldSpec) -> str:
    """A valid value that differs from the default."""
    if spec.choices:
        return next(str(c) for c in spec.choices if c != spec.default and str(c) not in spec.later_choices)
    if "bool" in spec.kinds:
        return "false" if spec.default is True else "true"
    if "int" in spec.kinds or "float" in spec.kinds:
        return next(str(n) for n in (3, 0.25, 1) if _valid(spec, n) and n != spec.default)
    return {"dict": '{"a": 1}', "floats": "0.25,0.75"}.get(spec.kinds[0], "something")


def _valid(spec: FieldSpec, number: float) -> bool:
    try:
        cast(spec, number)
    except ConfigError:
        return False
    return True


def _concerned_verb(spec: FieldSpec) -> str:
    verbs = spec.verbs or spec.group.verbs
    return verbs[0] if verbs and verbs != ("*",) else "train"


@pytest.mark.parametrize("spec", LATER, ids=lambda spec: spec.name)
def test_a_capability_that_comes_later_says_not_yet(spec: FieldSpec) -> None:
    error = refusal(f"{spec.name}={_other_value(spec)}", verb=_concerned_verb(spec))
    assert "not yet available" in error.what
    assert error.what.startswith(spec.name)
    assert spec.later in error.fix


@pytest.mark.parametrize(("spec", "choice"), LATER_CHOICES, ids=str)
def test_a_choice_that_comes_later_says_not_yet(spec: FieldSpec, choice: str) -> None:
    error = refusal(f"{spec.name}={choice}", verb=_concerned_verb(spec))
    assert error.what == f"{spec.name}: {choice} is not yet available"
    assert error.fix


def test_later_options_were_visited() -> None:
    assert LATER
    assert LATER_CHOICES


@pytest.mark.parametrize("spec", LATER, ids=lambda spec: spec.name)
def test_the_default_of_a_later_option_may_be_written_out(spec: FieldSpec) -> None:
    default = spec.default
    text = "null" if default in (None, ()) else ",".join(default) if isinstance(default, tuple) else default
    verb = _concerned_verb(spec)
    tokens = ["export_dir=e"] if verb == "export" else []
    assert getattr(run(f"{spec.name}={text}", *tokens, verb=verb).config, spec.name) == default


@pytest.mark.parametrize("spec", WITH_CHOICES, ids=lambda spec: spec.name)
def test_every_choice_is_enforced(spec: FieldSpec) -> None:
    error = refusal(f"{spec.name}=no-such-choice")
    assert spec.name in error.what
    assert all(str(choice) in error.why for choice in spec.choices)


@pytest.mark.parametrize("spec", WITH_BOUNDS, ids=lambda spec: spec.name)
def test_every_bound_is_enforced(spec: FieldSpec) -> None:
    low = spec.ge - 1 if spec.ge is not None else spec.gt
    high = spec.le + 1 if spec.le is not None else spec.lt
    tried = [number for number in (low, high) if number is not None]
    assert tried
    for number in tried:
        assert spec.bounds() in refusal(f"{spec.name}={number:g}").why


@pytest.mark.parametrize("spec", NOOP, ids=lambda spec: spec.name)
def test_a_key_without_effect_is_accepted_with_one_note(spec: FieldSpec) -> None:
    verb = _concerned_verb(spec)
    notes = run(f"{spec.name}={_other_value(spec)}", verb=verb).notes
    assert [note for note in notes if spec.name in note and spec.noop in note] != []
    assert run(verb=verb).notes == []


def test_an_option_is_described_or_refused() -> None:
    plain = dataclasses.make_dataclass("Plain", [("key", "int", 3)])
    with pytest.raises(TypeError, match="not declared with option"):
        read_fields([plain])


def test_a_key_is_declared_once() -> None:
    with pytest.raises(TypeError, match="declared twice"):
        read_fields([*Config.__bases__, Config.__bases__[0]])


def test_config_refuses_names_it_does_not_have() -> None:
    with pytest.raises(TypeError, match="no_such_key"):
        Config(no_such_key=1)


def test_config_is_frozen_comparable_and_prints_what_differs() -> None:
    assert Config(lora_rank=4) == Config(lora_rank=4) != Config()
    assert repr(Config(lora_rank=4)) == "Config(lora_rank=4)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().lora_rank = 3  # type: ignore[misc]
    assert dataclasses.replace(Config(), lora_rank=5).lora_rank == 5
