"""One conversation has one prompt: the same token ids through the API, the terminal chat, the renderer and training."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.scripted_engine import ScriptedEngine
from tests.unit.serve.served import TOKENIZER, served
from tests.unit.serve.test_terminal import talk

from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import RenderPolicy
from tunesmith.types import Conversation, Message, ToolCall, ToolSpec

WEATHER = ToolSpec("get_weather", "天气", {"type": "object", "properties": {"city": {"type": "string"}}})
CONVERSATIONS: dict[str, tuple[Message, ...]] = {
    "one question": (Message("user", "你好，who are you? 🌈"),),
    "system and history": (
        Message("system", "Be brief.\n用中文。"),
        Message("user", "1 + 1 = ?"),
        Message("assistant", "2"),
        Message("user", "  and 2 + 2?\n"),
    ),
    "special tokens that are typed": (Message("user", "what does <|im_end|> mean?"),),
}
CALL = (
    Message("user", "北京和上海的天气？"),
    Message(
        "assistant",
        "",
        tool_calls=tuple(
            ToolCall("get_weather", json.dumps({"city": city}, ensure_ascii=False)) for city in ("北京", "上海")
        ),
    ),
    Message("tool", '{"max": 25}'),
    Message("tool", '{"max": 28}'),
)


def as_openai(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    rows, calls = [], []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = [f"call_{index}" for index in range(len(message.tool_calls))]
            row["tool_calls"] = [
                {"id": name, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for name, call in zip(calls, message.tool_calls, strict=True)
            ]
        if message.role == "tool":
            row["tool_call_id"] = calls.pop(0)
        rows.append(row)
    return rows


def trained_prompt(messages: tuple[Message, ...], template: str, tools: tuple[ToolSpec, ...] = ()) -> tuple[int, ...]:
    """What stands before the last answer in the training example that ends with it."""
    renderer = make_renderer(TOKENIZER, template)
    conversation = Conversation((*messages, Message("assistant", "good")), tools)
    example = renderer.examples(conversation, RenderPolicy(mask_history=True))[-1]
    return example.input_ids[: next(t for t, weight in enumerate(example.weights) if weight)]


@pytest.mark.parametrize("template", ["chatml", "qwen3", "default", "qwen"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_api_terminal_renderer_and_training_feed_the_same_tokens(name: str, template: str) -> None:
    messages = CONVERSATIONS[name]
    renderer = make_renderer(TOKENIZER, template)
    expected = renderer.prompt(messages)
    assert trained_prompt(messages, template) == expected
    with served(template=template) as api:
        assert api.chat(messages=as_openai(messages)).status_code == 200
        assert api.engine.asked[-1][0] == expected
        assert api.chat_events(messages=as_openai(messages), stream_options={"include_usage": True})[-1]["usage"][
            "prompt_tokens"
        ] == len(expected)
    if name == "one question":
        engine = ScriptedEngine(TOKENIZER, ["good"])
        talk(renderer, messages[0].content, engine=engine)
        assert engine.asked[-1][0] == expected


def test_calls_and_their_results_are_fed_as_they_were_trained() -> None:
    tool = {"name": WEATHER.name, "description": WEATHER.description, "parameters": dict(WEATHER.parameters)}
    expected = make_renderer(TOKENIZER, "qwen").prompt(CALL, (WEATHER,))
    assert trained_prompt(CALL, "qwen", (WEATHER,)) == expected
    with served(template="qwen") as api:
        response = api.chat(messages=as_openai(CALL), tools=[{"type": "function", "function": tool}])
        assert response.status_code == 200, response.text
        assert api.engine.asked[-1][0] == expected
