"""The text of conversations with tools, spelled out for templates that no oracle covers."""

from __future__ import annotations

import pytest
import vocabularies
from tool_talks import ANSWER, NOW, OSLO, QUESTION, RAINY, ROME, SUNNY, SYSTEM, call, calling

from tunesmith.errors import DataError
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.types import Conversation, Message, ToolCall

TALK = (SYSTEM, QUESTION, calling(OSLO, ROME), SUNNY, RAINY, ANSWER)


def made(template: str, family: str = "chatml", **settings: object) -> Renderer:
    return make_renderer(vocabularies.byte_level(family), template, RenderSettings(**settings))  # type: ignore[arg-type]


def shown(renderer: Renderer, talk: tuple[Message, ...]) -> str:
    """A dialogue as text, what is trained in double brackets."""
    [example] = renderer.examples(Conversation(talk, (NOW,)), RenderPolicy())
    assert example.num_stops == example.num_turns
    parts = []
    for span in example.spans:
        text = renderer.decode(example.input_ids[span.start : span.end], skip_special_tokens=False)
        parts.append(f"[[{text}]]" if span.trained else text)
    return "".join(parts)


def test_default_tells_tools_in_words() -> None:
    assert shown(made("chatml"), TALK) == (
        "<|im_start|>system\nAnswer briefly.You have access to the following tools:\n"
        "> Tool Name: now\nTool Description: The time.\nTool Args:\n\n"
        "Use the following format if using a tool:\n```\nAction: tool name (one of [now])\n"
        "Action Input: the input to the tool, in a JSON format representing the kwargs "
        '(e.g. ```{"input": "hello world", "num_beams": 5}```)\n```\n<|im_end|>\n'
        "<|im_start|>user\nHow is the weather in Oslo?<|im_end|>\n<|im_start|>assistant\n"
        '[[Action: get_weather\nAction Input: {"city": "Oslo", "unit": "celsius"}\n'
        'Action: get_weather\nAction Input: {"city": "罗马"}<|im_end|>]]\n'
        '<|im_start|>tool\n{"sky": "sunny", "degrees": 21}<|im_end|>\n<|im_start|>tool\nrain\nall day ☔<|im_end|>\n'
        "<|im_start|>assistant\n[[It is sunny.<|im_end|>]]"
    )


def test_glm_4_ends_a_call_by_opening_the_turn_of_its_result() -> None:
    text = shown(made("glm4", "glm"), TALK)
    head, _, tail = text.partition("<|user|>")
    assert head == (
        "[gMASK]<sop><|system|>\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
        "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具\n\n## now\n\n{\n"
        '    "name": "now",\n    "description": "The time.",\n    "parameters": {\n        "type": "object",\n'
        '        "properties": {}\n    }\n}\n在调用上述函数时，请使用 Json 格式表示调用的参数。'
        "<|system|>\nAnswer briefly."
    )
    assert tail == (
        '\nHow is the weather in Oslo?<|assistant|>[[get_weather\n{"city": "Oslo", "unit": "celsius"}'
        '<|assistant|>get_weather\n{"city": "罗马"}<|observation|>]]\n{"sky": "sunny", "degrees": 21}'
        "<|observation|>\nrain\nall day ☔<|assistant|>[[\nIt is sunny.<|user|>]]"
    )


def test_a_system_text_is_made_where_there_is_none() -> None:
    assert made("chatml").prompt_text((QUESTION,), (NOW,)).startswith("<|im_start|>system\nYou have access")
    own = made("chatml", default_system="Be kind.")
    assert own.prompt_text((QUESTION,), (NOW,)).startswith("<|im_start|>system\nBe kind.You have access")


def test_tools_follow_a_merged_system_text() -> None:
    text = made("gemma3", "gemma").prompt_text((SYSTEM, QUESTION), (NOW,))
    assert text.startswith("<bos><start_of_turn>user\nAnswer briefly.You have access to the following tools:\n> Tool")
    assert text.endswith("```\n\n\nHow is the weather in Oslo?<end_of_turn>\n<start_of_turn>model\n")


@pytest.mark.parametrize("template", ["qwen", "default", "chatml"])
def test_an_answer_with_calls_in_the_middle_is_trained_in_each_place(template: str) -> None:
    renderer = made(template)
    examples = renderer.examples(Conversation(TALK, (NOW,)), RenderPolicy(mask_history=True))
    assert sum(example.num_turns for example in examples) == 1
    examples = renderer.examples(Conversation(TALK, (NOW,)), RenderPolicy())
    assert sum(example.num_turns for example in examples) == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [("{", "not valid JSON"), ("[1]", "not an object"), ("[" * 100_000, "nested too deeply"), ("3", "not an object")],
)
def test_arguments_that_are_no_object_are_refused_with_their_reason(arguments: str, why: str) -> None:
    with pytest.raises(DataError) as caught:
        made("qwen").prompt((QUESTION, calling(ToolCall("now", arguments)), SUNNY), (NOW,))
    assert why in (caught.value.why or "")
    assert "'now'" in caught.value.what


def test_arguments_are_written_in_one_layout() -> None:
    spaced = ToolCall("now", '{ "b":1,\n"a" : "\\u5929" }')
    assert '{"name": "now", "arguments": {"b": 1, "a": "天"}}' in made("qwen").prompt_text(
        (QUESTION, calling(spaced), SUNNY), (NOW,)
    )


def test_special_tokens_that_reading_needs_stay_visible() -> None:
    renderer = made("glm4", "glm")
    assert [renderer.tokenizer.decode([token]) for token in renderer.visible_special_ids] == ["<|assistant|>"]
    words = calling(call("now"), words="Hm.")
    [example] = renderer.examples(Conversation((QUESTION, words), (NOW,)), RenderPolicy())
    span = next(span for span in example.spans if span.trained)
    ids = example.input_ids[span.start : span.end]
    assert renderer.parse(renderer.decode_visible(ids), (NOW,)) == words
    assert "<|" not in renderer.decode(ids)


def test_a_template_without_markers_decodes_as_ever() -> None:
    renderer = made("llama2", "llama2")
    assert renderer.visible_special_ids == ()
    ids = renderer.prompt((QUESTION,))
    assert renderer.decode_visible(ids) == renderer.decode(ids)
