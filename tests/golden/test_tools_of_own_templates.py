"""Prompts and answers with tools have the tokens of the model family's own Jinja template.

The oracle is `apply_chat_template` with tools, over the files that TRL carries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jinja2
import pytest
import tool_talks
import vocabularies

from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.types import Conversation, Message

ALL = {**tool_talks.TALKS, **tool_talks.THOUGHTS}


@dataclass(frozen=True)
class Case:
    """A template, the file of its family's own one, and which conversations are meant to differ."""

    template: str
    jinja: str
    family: str = "chatml"
    settings: RenderSettings = field(default_factory=RenderSettings)
    variables: dict[str, Any] = field(default_factory=dict)
    thoughts: bool = False
    differs: frozenset[str] = frozenset()


# The own template of Llama 3 refuses several calls at once, and leaves out words in front of a call.
LLAMA = frozenset({"words and a call", "two calls at once"})
CASES = (
    Case("qwen", "qwen2_5"),
    Case("qwen3", "qwen3", thoughts=True),
    Case("qwen3", "qwen3", settings=RenderSettings(enable_thinking=None), thoughts=True),
    Case("qwen3", "qwen3", settings=RenderSettings(enable_thinking=False), variables={"enable_thinking": False}),
    Case("qwen3_nothink", "qwen3_instruct_2507"),
    Case("llama3", "llama3_1", "llama3", differs=LLAMA),
    Case("llama3", "llama3_2", "llama3", variables={"date_string": "26 Jul 2024"}, differs=LLAMA),
)


def made(case: Case) -> Renderer:
    tokenizer = vocabularies.byte_level(case.family)
    tokenizer.chat_template = vocabularies.own_jinja(case.jinja)
    return make_renderer(tokenizer, case.template, case.settings)


def own(renderer: Renderer, messages: tuple[Message, ...], case: Case, *, generation: bool) -> tuple[int, ...]:
    """The tokens of the own template; none when it refuses the conversation."""
    try:
        return tuple(
            renderer.tokenizer.apply_chat_template(
                tool_talks.as_tool_rows(messages),
                tools=tool_talks.wrapped_tools(),
                add_generation_prompt=generation,
                return_dict=False,
                **case.variables,
            )
        )
    except jinja2.TemplateError:
        return ()


def talks(case: Case) -> dict[str, tuple[Message, ...]]:
    return ALL if case.thoughts else tool_talks.TALKS


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.template}-{case.jinja}-{case.settings.enable_thinking}"
)
def test_a_prompt_with_tools_has_the_tokens_of_the_familys_own_template(case: Case) -> None:
    renderer = made(case)
    differing, num_prompts = set(), 0
    for name, talk in talks(case).items():
        for end in range(1, len(talk)):
            if talk[end].role != "assistant":
                continue
            num_prompts += 1
            ours = renderer.prompt(talk[:end], tool_talks.TOOLS)
            theirs = own(renderer, talk[:end], case, generation=True)
            if ours != theirs:
                differing.add(name)
                at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
                print(name, repr(renderer.decode(ours[at - 9 : at + 9], skip_special_tokens=False)))
                print("own:", repr(renderer.decode(theirs[at - 9 : at + 9], skip_special_tokens=False)))
    assert differing == case.differs
    assert num_prompts >= 14


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.template}-{case.jinja}-{case.settings.enable_thinking}"
)
def test_a_trained_call_has_the_tokens_of_the_familys_own_template(case: Case) -> None:
    renderer = made(case)
    num_calls = 0
    for name, talk in talks(case).items():
        ends = [end for end in range(1, len(talk)) if talk[end].tool_calls]
        for end in set(ends) if name not in case.differs else ():
            [*_, example] = renderer.examples(Conversation(talk[: end + 1], tool_talks.TOOLS), RenderPolicy())
            theirs = own(renderer, talk[: end + 1], case, generation=False)
            assert theirs[: len(example.input_ids)] == example.input_ids
            assert example.input_ids[-1] == renderer.end_id
            assert example.num_stops == example.num_turns
            num_calls += 1
    assert num_calls >= 5
