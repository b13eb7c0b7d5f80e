"""A model's own Jinja template with tools: passed through, read back, and nothing left out without a word."""

from __future__ import annotations

import json

import pytest
import tool_talks
import vocabularies
from tool_talks import ANSWER, OSLO, QUESTION, RAINY, ROME, SUNNY, TOOLS, calling

from tunesmith.errors import DataError
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.types import Conversation, Message

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def made(source: str, family: str = "chatml", **settings: object) -> Renderer:
    tokenizer = vocabularies.byte_level(family)
    tokenizer.chat_template = source
    return make_renderer(tokenizer, None, RenderSettings(**settings))  # type: ignore[arg-type]


def own(name: str, family: str = "chatml", **settings: object) -> Renderer:
    return made(vocabularies.own_jinja(name), family, **settings)


def trained(renderer: Renderer, talk: tuple[Message, ...], tools: tuple = TOOLS) -> list[str]:
    return [
        renderer.decode(example.input_ids[span.start : span.end], skip_special_tokens=False)
        for example in renderer.examples(Conversation(talk, tools), RenderPolicy())
        for span in example.spans
        if span.trained
    ]


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl"])
def test_prompts_and_calls_are_those_of_the_template_itself(name: str) -> None:
    renderer = own(name)
    for talk in tool_talks.TALKS.values():
        for end in [end for end in range(1, len(talk)) if talk[end].role == "assistant"]:
            theirs = renderer.tokenizer.apply_chat_template(
                tool_talks.as_tool_rows(talk[:end]),
                tools=tool_talks.wrapped_tools(),
                add_generation_prompt=True,
                return_dict=False,
                enable_thinking=True,
            )
            assert list(renderer.prompt(talk[:end], TOOLS)) == theirs


@pytest.mark.parametrize(
    ("name", "family", "format_name", "end"),
    [
        ("qwen2_5", "chatml", "qwen", "<|im_end|>"),
        ("qwen3", "chatml", "qwen", "<|im_end|>"),
        ("qwen3_5_think", "chatml", "qwen3_5", "<|im_end|>"),
        ("llama3_1", "llama3", "llama3", "<|eot_id|>"),
        ("lfm2_v2", "chatml", "lfm2", "<|im_end|>"),
        # The model stops by opening the turn of the result.
        ("glm4moe", "glm", "glm4_moe", "<|observation|>"),
    ],
)
def test_a_trained_call_is_read_back_and_ends_as_the_template_ends_it(
    name: str, family: str, format_name: str, end: str
) -> None:
    renderer = own(name, family)
    assert renderer.tool_format == format_name
    texts = trained(renderer, (QUESTION, calling(OSLO), SUNNY, ANSWER))
    assert texts[0].endswith(end)
    assert end in renderer.stop_texts
    opened = "<think>\n" if renderer.dialect.shape.opened else ""
    assert renderer.parse(texts[0].removesuffix(end), TOOLS).tool_calls == (OSLO,), opened
    examples = renderer.examples(Conversation((QUESTION, calling(OSLO), SUNNY, ANSWER), TOOLS), RenderPolicy())
    assert sum(example.num_stops for example in examples) == sum(example.num_turns for example in examples) == 2


def test_a_template_that_takes_arguments_as_text_gets_them_as_text() -> None:
    renderer = own("deepseekv3", "deepseek")
    talk = (QUESTION, calling(OSLO, ROME), SUNNY, RAINY, ANSWER)
    text = trained(renderer, talk, ())[0]
    assert f"function<｜tool▁sep｜>get_weather\n```json\n{OSLO.arguments}\n```" in text
    assert text.startswith("\n</think>\n\n<｜tool▁calls▁begin｜>")
    assert text.endswith("<｜tool▁calls▁end｜><｜end▁of▁sentence｜>")
    assert renderer.parse(text.removesuffix("<｜end▁of▁sentence｜>"), TOOLS) == calling(OSLO, ROME)


def test_the_thought_that_the_prompt_opens_is_set_apart() -> None:
    renderer = own("qwen3_5_think")
    assert renderer.prompt_text([QUESTION], TOOLS).endswith("<think>\n")
    assert renderer.dialect.shape.opened
    text = "I must look.\n</think>\n\n<tool_call>\n<function=now>\n</function>\n</tool_call>"
    whole = Message("assistant", "", "I must look.", (tool_talks.call("now"),))
    assert renderer.parse(text, TOOLS) == whole
    assert own("qwen3_5_think", enable_thinking=False).parse("Hello", TOOLS) == Message("assistant", "Hello")


@pytest.mark.parametrize(
    ("talk", "tools", "lost"),
    [
        ((QUESTION, ANSWER), TOOLS, "the tools of the conversation"),
        ((QUESTION, calling(OSLO)), (), "the calls of an assistant's turn"),
    ],
)
def test_what_a_template_would_leave_out_is_refused(talk: tuple[Message, ...], tools: tuple, lost: str) -> None:
    with pytest.raises(DataError, match=lost) as caught:
        made(PLAIN).examples(Conversation(talk, tools), RenderPolicy())
    assert "tool_format: default" in (caught.value.fix or "")


def test_a_result_that_a_template_would_leave_out_is_refused() -> None:
    renderer = made("{% for m in messages if m.role != 'tool' %}{{ m.content }}<|im_end|>{% endfor %}")
    with pytest.raises(DataError, match="the result of a tool"):
        renderer.prompt((QUESTION, ANSWER, SUNNY))


def test_a_tool_format_writes_what_the_template_cannot() -> None:
    renderer = made(PLAIN, tool_format="default")
    talk = (QUESTION, calling(OSLO, words="Let me look."), SUNNY, ANSWER)
    text = renderer.prompt_text(talk[:3], TOOLS)
    assert text.startswith("<|im_start|>system\nYou have access to the following tools:\n> Tool Name: get_weather")
    assert text.endswith(f"<|im_start|>tool\n{SUNNY.content}<|im_end|>\n<|im_start|>assistant\n")
    first = trained(renderer, talk)[0]
    assert first == f"Let me look.\nAction: get_weather\nAction Input: {OSLO.arguments}<|im_end|>"
    assert renderer.parse(first.removesuffix("<|im_end|>"), TOOLS) == talk[1]
    assert renderer.tool_format == "default"


def test_a_form_of_calls_that_is_not_known_is_said() -> None:
    renderer = made(PLAIN.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}"))
    assert renderer.tool_format is None
    assert any("cannot read back" in note for note in renderer.notes)
    assert renderer.call_grammar(TOOLS) is None
    text = json.dumps({"name": "now", "arguments": {}})
    assert renderer.parse(text, TOOLS) == Message("assistant", text)


def test_typed_special_tokens_in_calls_and_tools_stay_text() -> None:
    for renderer in (own("qwen2_5"), make_renderer(vocabularies.byte_level("chatml"), "qwen")):
        spelled = tool_talks.call("now", text="a <|im_end|> b")
        escaped = type(spelled)("now", '{"text": "a <\\u007cim_end|> b"}')
        for made_call in (spelled, escaped):
            talk = (QUESTION, calling(made_call), Message("tool", "<|im_end|>"), ANSWER)
            [example] = renderer.examples(Conversation(talk, TOOLS), RenderPolicy())
            assert example.input_ids.count(renderer.end_id or -1) == 5
            shown = renderer.decode(example.input_ids, skip_special_tokens=False)
            assert '{"text": "a <|im_end|> b"}' in shown
