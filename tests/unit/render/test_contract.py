"""The render contract notices every change of template, tokenizer or policy, and names the first differing token."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import vocabularies

from tunesmith.errors import TemplateError
from tunesmith.render.contract import check_contract, first_difference, tokenizer_hash
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.encode import Encoder
from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer
from tunesmith.render.slots import SlotDialect
from tunesmith.render.template import get_template

FINGERPRINT = "d5119625fd7bb294161f4fe8feaa80c50ad4daaffa2d2e3c76a469690859e013"


def made(template: str = "qwen", settings: RenderSettings | None = None) -> Renderer:
    return make_renderer(vocabularies.byte_level("chatml"), template, settings)


def stored(renderer: Renderer) -> dict[str, Any]:
    return json.loads(json.dumps(renderer.contract()))


def test_the_same_renderer_keeps_its_contract() -> None:
    contract = stored(made())
    check_contract(contract, made())
    assert len(contract["probes"]) == 9
    assert all(probe["prompt_ids"] for probe in contract["probes"])


def test_a_mended_tokenizer_saved_and_loaded_again_keeps_the_contract(tmp_path: Any) -> None:
    renderer = made("chatml")
    renderer.tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    check_contract(stored(renderer), make_renderer(AutoTokenizer.from_pretrained(tmp_path), "chatml"))


def test_one_more_space_in_a_template_is_named_by_its_token() -> None:
    changed = replace(get_template("qwen"), header="<|im_start|>assistant \n")
    tokenizer = vocabularies.byte_level("chatml")
    dialect = SlotDialect(changed, "", "<|im_end|>", RenderSettings())
    other = Renderer(tokenizer, dialect, Encoder(tokenizer))
    with pytest.raises(TemplateError) as caught:
        check_contract(stored(made()), other)
    prompt = made().contract()["probes"][0]["prompt_ids"]
    position = first_difference(prompt, other.contract()["probes"][0]["prompt_ids"])
    assert f"token {position} differs" in caught.value.what
    assert "'\\n'" in caught.value.why
    assert "' \\n'" in caught.value.why


@pytest.mark.parametrize(
    ("template", "settings"),
    [
        ("chatml", RenderSettings()),
        ("qwen3", RenderSettings()),
        ("qwen", RenderSettings(default_system="You are kind.")),
    ],
)
def test_another_template_or_policy_is_refused(template: str, settings: RenderSettings) -> None:
    with pytest.raises(TemplateError, match="trained"):
        check_contract(stored(made()), made(template, settings))


@pytest.mark.parametrize(
    "settings", [RenderSettings(None, False), RenderSettings(None, None), RenderSettings(None, True, True)]
)
def test_another_thinking_policy_is_refused(settings: RenderSettings) -> None:
    with pytest.raises(TemplateError, match="trained"):
        check_contract(stored(made("qwen3")), made("qwen3", settings))


def test_another_vocabulary_is_refused() -> None:
    other = make_renderer(vocabularies.byte_level("chatml", num_tokens=600), "qwen")
    with pytest.raises(TemplateError, match="trained"):
        check_contract(stored(made()), other)


def test_a_token_added_later_is_refused_even_when_no_probe_holds_it() -> None:
    other = made()
    other.tokenizer.add_tokens(["<new>"])
    with pytest.raises(TemplateError, match="tokenizer"):
        check_contract(stored(made()), other)


def test_the_tokenizer_hash_ignores_padding_and_truncation() -> None:
    tokenizer = vocabularies.byte_level("chatml")
    before = tokenizer_hash(tokenizer)
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == before


def test_a_contract_of_another_version_is_refused() -> None:
    with pytest.raises(TemplateError, match="version"):
        check_contract({**stored(made()), "version": 0}, made())


@pytest.mark.parametrize(
    ("left", "right", "at"), [((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1,), (1, 2), 1), ((), (), None)]
)
def test_the_first_difference(left: tuple[int, ...], right: tuple[int, ...], at: int | None) -> None:
    assert first_difference(left, right) == at


def older(contract: dict[str, Any]) -> dict[str, Any]:
    """The contract as version 1 wrote it, which knew no tools."""
    del contract["template"]["tools"]
    probes = [probe for probe in contract["probes"] if "call" not in probe["name"]]
    return {**contract, "version": 1, "probes": probes}


def test_a_contract_from_before_tools_still_holds_and_still_guards() -> None:
    contract = older(stored(made()))
    assert len(contract["probes"]) == 6
    check_contract(contract, made())
    check_contract(contract, made(settings=RenderSettings(tool_format="default")))
    with pytest.raises(TemplateError):
        check_contract(contract, made(settings=RenderSettings(default_system="Other.")))
    with pytest.raises(TemplateError):
        check_contract(contract, made("chatml"))


def test_the_identity_of_a_template_is_that_of_before_tools() -> None:
    """Older runs stored this hash."""
    assert get_template("chatml").fingerprint() == FINGERPRINT


def test_another_tool_format_is_noticed_by_the_tokens_of_a_call() -> None:
    with pytest.raises(TemplateError, match="other tokens") as caught:
        check_contract(stored(made()), made(settings=RenderSettings(tool_format="default")))
    assert caught.value.where == "probe 'a call'"


def test_another_turn_of_results_is_noticed() -> None:
    template = get_template("qwen")
    changed = replace(template, tools=replace(template.tools, result="<tool_response>{content}</tool_response>"))
    tokenizer = vocabularies.byte_level("chatml")
    dialect = SlotDialect(changed, "", "<|im_end|>", RenderSettings())
    with pytest.raises(TemplateError, match="other tokens") as caught:
        check_contract(stored(made()), Renderer(tokenizer, dialect, Encoder(tokenizer)))
    assert caught.value.where == "probe 'calls and results'"
