"""Every trained answer is seen after exactly the tokens that inference would feed: for every template and setting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import vocabularies

from tunesmith.errors import DataError
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.probes import Probe, probe_conversations
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.render.template import templates
from tunesmith.types import Conversation, RenderedExample

PROBES = tuple(probe_conversations())
NUM_ANSWERS = 143
SETTINGS = tuple(
    RenderSettings(enable_thinking=thinking, preserve_thinking=preserve)
    for thinking in (True, False, None)
    for preserve in (False, True)
)
PLAIN = [name for name, template in templates().items() if template.thinking is None]
THINKING = [name for name, template in templates().items() if template.thinking is not None]


def answers(examples: list[RenderedExample]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(all tokens before it, its tokens) of every trained answer, in order."""
    for example in examples:
        for span in example.spans:
            if span.trained:
                yield example.input_ids[: span.start], example.input_ids[span.start : span.end]


def check(renderer: Renderer, probe: Probe, *, may_be_silent: bool = False) -> int:
    """Checks one conversation; returns the number of its answers."""
    examples = renderer.examples(Conversation(probe.messages), RenderPolicy())
    asked = [index for index, message in enumerate(probe.messages) if message.role == "assistant"]
    found = list(answers(examples))
    assert len(found) == len(asked) == sum(example.num_turns for example in examples)
    for index, (before, answer) in zip(asked, found, strict=True):
        prompt = renderer.prompt(probe.messages[:index])
        silent = before[len(prompt) :]
        assert before[: len(prompt)] == prompt
        assert may_be_silent or not silent
        if renderer.end_id is not None:
            assert answer[-1] == renderer.end_id
            assert answer.count(renderer.end_id) == 1
        assert renderer.parse(renderer.decode(answer[:-1], skip_special_tokens=False)).role == "assistant"
    for example in examples:
        trained = [weight for weight in example.weights if weight]
        assert len(trained) == sum(span.end - span.start for span in example.spans if span.trained)
        assert example.num_stops == (example.num_turns if renderer.end_id is not None else 0)
    return len(found)


@pytest.mark.parametrize("name", PLAIN)
def test_the_supervised_prompt_is_the_generation_prompt(name: str) -> None:
    renderer = make_renderer(vocabularies.for_template(name), name)
    assert sum(check(renderer, probe) for probe in PROBES) == NUM_ANSWERS


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.enable_thinking}-{s.preserve_thinking}")
@pytest.mark.parametrize("name", THINKING)
def test_the_supervised_prompt_of_a_thinking_template_is_the_generation_prompt(
    name: str, settings: RenderSettings
) -> None:
    renderer = make_renderer(vocabularies.for_template(name), name, settings)
    silent = settings.enable_thinking is None
    assert sum(check(renderer, probe, may_be_silent=silent) for probe in PROBES) == NUM_ANSWERS


@pytest.mark.parametrize("jinja", ["qwen2_5", "qwen3", "llama3", "gemma3", "phi3", "deepseekv3", "glm4moe"])
def test_the_supervised_prompt_of_a_models_own_template_is_its_generation_prompt(jinja: str) -> None:
    family = {"llama3": "llama3", "gemma3": "gemma", "phi3": "phi3", "deepseekv3": "deepseek", "glm4moe": "glm"}
    tokenizer = vocabularies.byte_level(family.get(jinja, "chatml"))
    tokenizer.chat_template = vocabularies.own_jinja(jinja)
    renderer = make_renderer(tokenizer, None)
    num_answers, num_refused = 0, 0
    for probe in PROBES:
        try:
            num_answers += check(renderer, probe)
        except DataError:
            num_refused += 1
    assert num_answers == NUM_ANSWERS
    assert num_refused == 0


def test_all_templates_were_visited() -> None:
    assert len(PLAIN) == 20
    assert len(THINKING) == 2
