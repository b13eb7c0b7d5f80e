"""Conversations with tools have the tokens of Mistral's own tokenizer library, over its real v3 vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool_talks
import vocabularies
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool
from mistral_common.protocol.instruct.tool_calls import ToolCall as OwnCall
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tool_talks import ANSWER, QUESTION, RAINY, SUNNY, SYSTEM, calling

from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.types import Conversation, Message

OSLO = tool_talks.call("get_weather", "a1B2c3D4e", city="Oslo", unit="celsius")
ROME = tool_talks.call("get_weather", "f5G6h7I8j", city="罗马")
TALKS = {
    "told": (QUESTION, ANSWER),
    "told with system": (SYSTEM, QUESTION, ANSWER),
    "a call": (SYSTEM, QUESTION, calling(OSLO), SUNNY, ANSWER),
    "two calls": (QUESTION, calling(OSLO, ROME), SUNNY, RAINY, ANSWER),
    "a later question": (QUESTION, calling(OSLO), SUNNY, ANSWER, Message("user", "And Rome?"), calling(ROME)),
}


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return make_renderer(vocabularies.mistral(Path(tmp_path_factory.mktemp("mistral"))), "mistral")


def own_messages(messages: tuple[Message, ...]) -> list[object]:
    rows: list[object] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "tool":
            rows.append(ToolMessage(content=message.content, tool_call_id=waiting.pop(0)))
        elif message.tool_calls:
            waiting = [made.id for made in message.tool_calls]
            calls = [
                OwnCall(id=made.id, function=FunctionCall(name=made.name, arguments=made.arguments))
                for made in message.tool_calls
            ]
            rows.append(AssistantMessage(content=None, tool_calls=calls))
        else:
            kind = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}[message.role]
            rows.append(kind(content=message.content))
    return rows


def own(messages: tuple[Message, ...]) -> tuple[int, ...]:
    tools = [
        Tool(function=Function(name=tool.name, description=tool.description, parameters=dict(tool.parameters)))
        for tool in tool_talks.TOOLS
    ]
    tokenizer = MistralTokenizer.from_file(str(vocabularies.mistral_model_file()))
    request = ChatCompletionRequest(messages=own_messages(messages), tools=tools)
    return tuple(tokenizer.encode_chat_completion(request).tokens)


@pytest.mark.parametrize("name", TALKS)
def test_a_prompt_with_tools_has_the_tokens_of_mistrals_own_library(renderer: Renderer, name: str) -> None:
    talk = TALKS[name]
    ends = [end for end in range(1, len(talk)) if talk[end].role == "assistant"]
    for end in ends:
        assert renderer.prompt(talk[:end], tool_talks.TOOLS) == own(talk[:end])
    assert ends


def test_a_trained_call_has_the_tokens_of_mistrals_own_library(renderer: Renderer) -> None:
    for calls in ((OSLO,), (OSLO, ROME)):
        talk = (QUESTION, calling(*calls))
        [example] = renderer.examples(Conversation(talk, tool_talks.TOOLS), RenderPolicy())
        results = (SUNNY, RAINY)[: len(calls)]
        theirs = own((*talk, *results))
        assert theirs[: len(example.input_ids)] == example.input_ids
        assert example.num_stops == 1


def test_a_call_without_an_identifier_of_mistrals_is_written_without(renderer: Renderer) -> None:
    talk = (QUESTION, calling(tool_talks.OSLO), SUNNY)
    assert renderer.prompt_text(talk, tool_talks.TOOLS).endswith(
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo", "unit": "celsius"}}]</s>'
        '[TOOL_RESULTS] {"content": {"sky": "sunny", "degrees": 21}}[/TOOL_RESULTS]'
    )


def test_the_marker_of_calls_stays_visible(renderer: Renderer) -> None:
    marker = renderer.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
    assert renderer.visible_special_ids == (marker,)
    [example] = renderer.examples(Conversation((QUESTION, calling(OSLO)), tool_talks.TOOLS), RenderPolicy())
    [answer] = [span for span in example.spans if span.trained]
    ids = example.input_ids[answer.start : answer.end]
    assert renderer.parse(renderer.decode_visible(ids), tool_talks.TOOLS) == calling(OSLO)
    assert "[TOOL_CALLS]" not in renderer.decode(ids)
