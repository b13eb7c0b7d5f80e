"""Generation prompts have the tokens of the model family's own Jinja template.

The oracle is `apply_chat_template` with the files that TRL carries, over real vocabularies where a package has one. A
difference that is meant stands in a case of its own below, with what it is; none is skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import vocabularies

from tunesmith.render.compare import compare_with_own
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.jinja import own_template_ids
from tunesmith.render.load import make_renderer
from tunesmith.render.probes import Probe, as_rows, probe_conversations
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.types import Conversation

PROBES = tuple(probe_conversations())


@dataclass(frozen=True)
class Case:
    """A template, the file of its family's own one, a vocabulary, and the settings of both sides."""

    template: str
    jinja: str
    vocabulary: Callable[[], Any]
    settings: RenderSettings = field(default_factory=RenderSettings)
    variables: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""
    """Text that only the own template adds to the end of the prompt."""
    differs: frozenset[str] = frozenset()
    """Probes that are meant to differ, for the reason given where the set is defined."""


def _small(family: str) -> Callable[[], Any]:
    return lambda: vocabularies.byte_level(family)


# R1's template leaves the blank line that stood after a thought in the history; here it goes with the thought.
_BLANK_LINE = frozenset({"thought written in the text"})
_THOUGHTS = _BLANK_LINE | {"thought, two turns"}

CASES = (
    Case("qwen", "qwen2_5", vocabularies.qwen),
    Case("qwen", "qwen2_5", _small("chatml")),
    # Qwen2.5-VL differs from Qwen2.5 in its default system text only.
    Case("qwen", "qwen2_5_vl", _small("chatml"), RenderSettings("You are a helpful assistant.")),
    Case("qwen3", "qwen3", lambda: vocabularies.qwen(thinking_tokens=True)),
    Case("qwen3", "qwen3", _small("chatml"), RenderSettings(enable_thinking=False), {"enable_thinking": False}),
    Case("qwen3", "qwen3", _small("chatml"), RenderSettings(enable_thinking=None)),
    Case("qwen3_nothink", "qwen3_instruct_2507", lambda: vocabularies.qwen(thinking_tokens=True)),
    Case("qwen3_nothink", "qwen3_vl", _small("chatml")),
    Case("deepseekr1", "deepseekv3", vocabularies.deepseek, differs=_BLANK_LINE),
    Case("deepseekr1", "deepseek_r1_distill", vocabularies.deepseek, differs=_BLANK_LINE),
    # TRL's file named V3 opens a thought in the prompt and takes thoughts out of the history, as R1 does; V3 does not.
    Case("deepseek3", "deepseekv3", vocabularies.deepseek, suffix="<think>\n", differs=_THOUGHTS),
    Case("llama3", "llama3", _small("llama3")),
    Case("gemma", "gemma", _small("gemma")),
    Case("gemma2", "gemma", _small("gemma")),
    Case("gemma3", "gemma3", _small("gemma")),
    Case("phi", "phi3", _small("phi3")),
    Case("phi", "phi3_5", _small("phi3")),
)


def _compare(case: Case, probes: tuple[Probe, ...]) -> dict[str, list[str]]:
    tokenizer = case.vocabulary()
    tokenizer.chat_template = vocabularies.own_jinja(case.jinja)
    renderer = make_renderer(tokenizer, case.template, case.settings)
    if case.suffix:
        renderer = _WithSuffix(renderer, case.suffix)
    by_verdict: dict[str, list[str]] = {"equal": [], "differs": [], "refused": [], "typed": []}
    for result in compare_with_own(renderer, probes, **case.variables):
        by_verdict[result.verdict].append(result.probe)
    return by_verdict


class _WithSuffix(Renderer):
    def __init__(self, renderer: Renderer, suffix: str) -> None:
        super().__init__(renderer.tokenizer, renderer.dialect, renderer.encoder)
        self._suffix = suffix

    def prompt(self, messages, tools=()):  # type: ignore[no-untyped-def]
        return super().prompt(messages) + self.encoder.encode(self._suffix)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.template}-{case.jinja}-{case.settings.enable_thinking}"
)
def test_a_prompt_has_the_tokens_of_the_familys_own_template(case: Case) -> None:
    verdicts = _compare(case, PROBES)

    assert set(verdicts["differs"]) == case.differs
    assert all(name.startswith("special: ") for name in verdicts["typed"])
    refuses_system = {probe.name for probe in PROBES if probe.messages[0].role == "system"}
    assert set(verdicts["refused"]) == (refuses_system if case.jinja == "gemma" else set())
    assert len(verdicts["equal"]) >= 50


# An answer that begins with newlines: the text as a whole merges them with the newline that ends the prompt. Inference
# has the prompt first; so has training.
_MERGED = {"leading newline", "many newlines", "tabs and spaces", "emoji and whitespace"}


@pytest.mark.parametrize("case", [case for case in CASES if not case.differs], ids=lambda case: case.jinja)
def test_a_trained_dialogue_has_the_tokens_of_the_familys_own_template(case: Case) -> None:
    """The whole dialogue with its answers, not only prompts, where it is one example."""
    tokenizer = case.vocabulary()
    tokenizer.chat_template = vocabularies.own_jinja(case.jinja)
    renderer = make_renderer(tokenizer, case.template, case.settings)
    differing, num_equal = set(), 0
    for probe in PROBES:
        rows = as_rows(probe.messages, thoughts_apart=bool(renderer.dialect.thinking_texts))
        theirs = own_template_ids(tokenizer, rows, {**case.variables, "add_generation_prompt": False})
        typed = any(renderer.encoder.guard(message.content) != message.content for message in probe.messages)
        if theirs is None or typed:
            continue
        ours = renderer.examples(Conversation(probe.messages), RenderPolicy())[-1].input_ids
        if theirs[: len(ours)] == ours:
            num_equal += 1
        else:
            differing.add(probe.name.partition(",")[0])
    left_out = {"a thought", "thought in the second answer"} if case.settings.enable_thinking is False else set()
    assert differing <= _MERGED | left_out
    assert num_equal >= 50


def test_every_family_with_an_own_template_at_hand_was_visited() -> None:
    visited = Counter(case.template for case in (*CASES, *HEADER))
    assert sorted(visited) == [
        "deepseek3", "deepseekr1", "gemma", "gemma2", "gemma3", "glm4", "llama3", "phi",
        "qwen", "qwen3", "qwen3_nothink",
    ]  # fmt: skip
    assert len(PROBES) == 96


# Llama 3.1 and 3.2 put two dates into a system turn; ours has none, so that nothing depends on the calendar.
# GLM-4.5's template writes empty thoughts into the history; glm4 is the layout of the models before it.
HEADER = (
    Case("llama3", "llama3_1", _small("llama3")),
    Case("llama3", "llama3_2", _small("llama3"), variables={"date_string": "26 Jul 2024"}),
    Case("glm4", "glm4moe", _small("glm")),
)
_DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


@pytest.mark.parametrize("case", HEADER[:2], ids=lambda case: case.jinja)
def test_llama_3_1_differs_by_its_dates_and_by_nothing_else(case: Case) -> None:
    with_system = tuple(probe for probe in PROBES if probe.messages[0].role == "system")
    assert len(with_system) >= 25
    assert _compare(case, with_system)["equal"] == []

    tokenizer = case.vocabulary()
    tokenizer.chat_template = vocabularies.own_jinja(case.jinja)
    renderer = make_renderer(tokenizer, case.template, case.settings)
    for probe in with_system:
        rows = [{"role": message.role, "content": message.content} for message in probe.question]
        theirs = tokenizer.apply_chat_template(
            rows, add_generation_prompt=True, return_dict=False, date_string="26 Jul 2024"
        )
        system = type(probe.messages[0])("system", _DATES + probe.messages[0].content.strip())
        assert list(renderer.prompt((system, *probe.question[1:]))) == theirs


def test_glm_4_has_the_prompt_of_its_successor_where_there_is_no_history() -> None:
    one_turn = tuple(probe for probe in PROBES if len(probe.question) <= 2)
    verdicts = _compare(HEADER[2], one_turn)
    assert verdicts["differs"] == []
    assert len(verdicts["equal"]) >= 45
    later = tuple(probe for probe in PROBES if len(probe.question) > 2 and not probe.name.startswith("special"))
    assert _compare(HEADER[2], later)["equal"] == []
