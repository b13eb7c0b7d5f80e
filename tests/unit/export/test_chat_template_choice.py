"""The chat template of an exported folder gives the prompts of training, or it is said that it does not."""

from __future__ import annotations

import pytest
from tests.tiny import CHATML_JINJA, tiny_tokenizer

from tunesmith.export.chat_template import choose_chat_template
from tunesmith.export.jinja import jinja_of
from tunesmith.render import Renderer
from tunesmith.render.compare import compare_with_own
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.probes import probe_conversations
from tunesmith.render.template import templates

SETTINGS = {
    "as it is": RenderSettings(),
    "another system text": RenderSettings(default_system="Be 'kind' and \"brief\".\n你好"),
    "no thoughts": RenderSettings(enable_thinking=False),
}


def renderer_for(name: str | None, settings: RenderSettings, own: str | None = None) -> Renderer:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = own
    if name is not None:
        template = templates()[name]
        end = () if "{" in template.end else (template.end,)
        tokens = [text for text in (*template.required_tokens, *template.stops, *end) if text]
        tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    return make_renderer(tokenizer, name, settings)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("name", templates())
def test_every_template_written_as_jinja_gives_the_tokens_of_the_renderer(name: str, settings: RenderSettings) -> None:
    renderer = renderer_for(name, settings)
    renderer.tokenizer.chat_template = jinja_of(renderer)
    results = compare_with_own(renderer, probe_conversations())
    # A conversation with typed special tokens differs by design: Jinja cannot keep them text.
    assert {result.verdict for result in results} <= {"equal", "typed"}, [r for r in results if r.verdict == "differs"]
    assert sum(result.verdict == "equal" for result in results) > 80


def test_the_models_own_template_stays_when_it_renders_the_same() -> None:
    renderer = renderer_for("chatml", RenderSettings(), own=CHATML_JINJA)
    choice = choose_chat_template(renderer)
    assert (choice.jinja, choice.is_faithful, choice.note) == (CHATML_JINJA, True, "")


def test_another_own_template_is_replaced_by_the_trained_one_and_that_is_said() -> None:
    renderer = renderer_for("llama2", RenderSettings(), own=CHATML_JINJA)
    choice = choose_chat_template(renderer)
    assert choice.is_faithful
    assert choice.jinja is not None
    assert "[INST]" in choice.jinja
    assert "written from template llama2" in choice.note
    assert renderer.tokenizer.chat_template == CHATML_JINJA, "the tokenizer itself is left as it was"


def test_a_model_without_a_template_gets_the_trained_one() -> None:
    choice = choose_chat_template(renderer_for("alpaca", RenderSettings()))
    assert choice.is_faithful
    assert "the model has none" in choice.note


def test_an_own_template_that_cannot_give_the_prompts_of_training_is_named() -> None:
    renderer = renderer_for(None, RenderSettings(default_system="Always rhyme."), own=CHATML_JINJA)
    choice = choose_chat_template(renderer)
    assert not choice.is_faithful
    assert "does not always give the prompts of training" in choice.note


def test_a_generated_template_that_fails_to_render_is_not_taken_for_faithful(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "{{ raise_exception('no') }}"
    monkeypatch.setattr("tunesmith.export.chat_template.jinja_of", lambda renderer: broken)
    choice = choose_chat_template(renderer_for("alpaca", RenderSettings()))
    assert not choice.is_faithful
    assert choice.jinja is None
