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
from tunesmith.render.probes import TOOL_PROBES, Probe, probe_conversations
from tunesmith.render.template import templates
from tunesmith.types import Message, ToolCall, ToolSpec

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


_TOOL = ToolSpec(
    "find",
    "Finds notes.",
    {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "查询", "enum": ["a", "b"]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["query"],
    },
)
_CALL = ToolCall("find", '{"query": "é \\"x\\"\\n", "tags": ["天", "b"]}')
_THOUGHTS = (
    Message("user", "Q"),
    Message("assistant", "Wait.", reasoning="Hm.", tool_calls=(_CALL, _CALL)),
    Message("tool", '{"n": 1}'),
    Message("tool", "two\n"),
    Message("assistant", "", tool_calls=(_CALL,)),
    Message("tool", "three"),
    Message("assistant", "Done.", reasoning="Good."),
    Message("user", "And?"),
    Message("assistant", "Nothing."),
)
_WITH_TOOLS = (
    *TOOL_PROBES,
    Probe("two tools", _THOUGHTS, (_TOOL, ToolSpec("now", "", {}))),
    Probe("two tools, with system", (Message("system", "S"), *_THOUGHTS), (_TOOL, ToolSpec("now", "", {}))),
    Probe("calls without tools", _THOUGHTS),
    Probe("in the middle", _THOUGHTS[:7], (_TOOL,)),
)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("name", [name for name, made in templates().items() if made.tools.format != "mistral"])
def test_a_template_with_tools_written_as_jinja_gives_the_tokens_of_the_renderer(
    name: str, settings: RenderSettings
) -> None:
    renderer = renderer_for(name, settings)
    renderer.tokenizer.chat_template = jinja_of(renderer)
    results = compare_with_own(renderer, _WITH_TOOLS)
    assert [(result.probe, result.ours, result.theirs) for result in results if result.verdict != "equal"] == []
    assert len(results) == 7


@pytest.mark.parametrize("name", ["ling", "minimax1", "llama3", "glm4", "qwen"])
def test_other_tool_formats_written_as_jinja_give_the_tokens_of_the_renderer(name: str) -> None:
    renderer = renderer_for("chatml", RenderSettings(tool_format=name))
    renderer.tokenizer.chat_template = jinja_of(renderer)
    assert {result.verdict for result in compare_with_own(renderer, _WITH_TOOLS)} == {"equal"}


@pytest.mark.parametrize("name", ["mistral", "qwen3_5", "lfm2"])
def test_a_tool_format_that_jinja_cannot_write_is_left_out_and_that_is_said(name: str) -> None:
    renderer = renderer_for("chatml", RenderSettings(tool_format=name))
    choice = choose_chat_template(renderer)
    assert choice.is_faithful
    assert f"without tools, since their format ({name}) cannot be written as Jinja" in choice.note


def test_an_own_template_that_drops_tools_is_replaced_by_one_that_writes_them() -> None:
    choice = choose_chat_template(renderer_for("chatml", RenderSettings(), own=CHATML_JINJA))
    assert choice.is_faithful
    assert choice.jinja is not None
    assert "Action Input" in choice.jinja
    assert "written from template chatml (conversation 'a call'" in choice.note


def test_the_models_own_template_stays_when_it_renders_the_same() -> None:
    with_tools = jinja_of(renderer_for("qwen", RenderSettings()))
    choice = choose_chat_template(renderer_for("qwen", RenderSettings(), own=with_tools))
    assert (choice.jinja, choice.is_faithful, choice.note) == (with_tools, True, "")


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
