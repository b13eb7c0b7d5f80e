"""Chat answers over a scripted engine: both forms of an answer, tools, several choices, usage, log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.serve.served import TOKENIZER, Served, error_of, events_of, served

from tunesmith.serve.openai.chat import join_deltas

TEXT = "Hi there, 你好 🎉 friend.\u2028 line\u0085 end"
CALLS = (
    'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京", "days": 2}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "clock"}},
]


@pytest.fixture(scope="module")
def plain() -> Iterator[Served]:
    with served([TEXT]) as server:
        yield server


@pytest.fixture(scope="module")
def caller() -> Iterator[Served]:
    with served([CALLS]) as server:
        yield server


def streamed_choice(events: list[dict[str, Any]], index: int = 0) -> tuple[dict[str, Any], str, list[dict[str, Any]]]:
    """(message, finish reason, logprobs entries) that the events of one choice add up to, by the rules of streams."""
    assert len({event["id"] for event in events}) == 1
    mine = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    assert mine[0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("role" in choice["delta"] for choice in mine[1:])
    assert mine[-1]["delta"] == {}
    assert all(choice["finish_reason"] is None for choice in mine[:-1])
    entries = [entry for choice in mine if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    return join_deltas([choice["delta"] for choice in mine]), mine[-1]["finish_reason"], entries


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [{**call, "id": ""} for call in message.get("tool_calls", [])]
    return {**message, "tool_calls": calls}


def test_a_streamed_answer_equals_the_whole_one_and_no_character_is_split(plain: Served) -> None:
    whole = plain.chat().json()["choices"][0]
    message, reason, _ = streamed_choice(plain.chat_events())
    assert whole["message"]["content"] == TEXT
    assert (message, reason) == (whole["message"], whole["finish_reason"])
    assert reason == "stop"


def test_readers_of_lines_see_one_event_per_line(plain: Served) -> None:
    response = plain.chat(stream=True)
    lines = [line for line in response.content.decode().splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)


def test_usage_counts_the_prompt_of_the_renderer_and_every_token_computed(plain: Served) -> None:
    num_tokens = len(TOKENIZER(TEXT)["input_ids"]) + 1
    usage = plain.chat().json()["usage"]
    prompt_ids = plain.engine.asked[-1][0]
    assert usage == {
        "prompt_tokens": len(prompt_ids),
        "completion_tokens": num_tokens,
        "total_tokens": len(prompt_ids) + num_tokens,
    }


def test_streamed_usage_comes_last_without_choices_and_only_when_asked_for(plain: Served) -> None:
    events = plain.chat_events(stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == plain.chat().json()["usage"]
    assert all(event["usage"] is None and event["choices"] for event in events[:-1])
    assert not any("usage" in event for event in plain.chat_events())


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_cut_answer_says_length_in_both_forms(plain: Served, field: str) -> None:
    whole = plain.chat(**{field: 4}).json()
    message, reason, _ = streamed_choice(plain.chat_events(**{field: 4}))
    assert whole["choices"][0]["finish_reason"] == reason == "length"
    assert whole["choices"][0]["message"] == message
    assert whole["usage"]["completion_tokens"] == 4


def test_several_choices_come_in_both_forms_each_with_a_seed_of_its_own() -> None:
    with served(["one", "two 二", "three"]) as server:
        whole = server.chat(n=3, seed=7, temperature=1).json()["choices"]
        assert [choice["message"]["content"] for choice in whole] == ["one", "two 二", "three"]
        assert [choice["index"] for choice in whole] == [0, 1, 2]
        assert [params.seed for _, params, _ in server.engine.asked] == [7, 8, 9]
    with served(["one", "two 二", "three"]) as server:
        events = server.chat_events(n=3)
        found = [streamed_choice(events, index)[0]["content"] for index in range(3)]
        assert found == ["one", "two 二", "three"]


def test_calls_are_told_apart_from_text_and_equal_in_both_forms(caller: Served) -> None:
    whole = caller.chat(tools=TOOLS).json()["choices"][0]
    message, reason, _ = streamed_choice(caller.chat_events(tools=TOOLS))
    calls = whole["message"]["tool_calls"]
    assert whole["finish_reason"] == reason == "tool_calls"
    assert without_ids(message) == without_ids(whole["message"])
    assert [call["function"]["name"] for call in calls] == ["weather", "clock"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "北京", "days": 2}
    assert whole["message"]["content"].strip() == "Let me look."
    assert len({call["id"] for call in calls}) == 2
    assert all(call["type"] == "function" and call["id"] for call in calls)


def test_a_call_cut_by_the_limit_says_length(caller: Served) -> None:
    choice = caller.chat(tools=TOOLS, max_tokens=8).json()["choices"][0]
    assert choice["finish_reason"] == "length"


def test_content_is_null_when_there_are_only_calls() -> None:
    with served([CALLS.partition("\n")[2]]) as server:
        message = server.chat(tools=TOOLS).json()["choices"][0]["message"]
        assert message["content"] is None
        assert len(message["tool_calls"]) == 2


def test_without_tools_a_call_stays_text(caller: Served) -> None:
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        choice = caller.chat(**fields).json()["choices"][0]
        assert "tool_calls" not in choice["message"]
        assert choice["message"]["content"] == CALLS
        assert choice["finish_reason"] == "stop"


def test_tools_are_shown_to_the_model_unless_the_choice_is_none(caller: Served) -> None:
    shown = {}
    for choice in ("auto", "none"):
        caller.chat(tools=TOOLS, tool_choice=choice)
        shown[choice] = "weather" in TOKENIZER.decode(caller.engine.asked[-1][0])
    assert shown == {"auto": True, "none": False}


def test_required_and_named_choices_hold_the_answer_to_a_grammar(caller: Served) -> None:
    named = {"type": "function", "function": {"name": "clock"}}
    grammars = {}
    for name, choice in (("auto", "auto"), ("required", "required"), ("named", named)):
        assert caller.chat(tools=TOOLS, tool_choice=choice).status_code == 200
        grammars[name] = caller.engine.asked[-1][1].grammar
    assert grammars["auto"] is None
    assert {grammars["required"].kind, grammars["named"].kind} == {"lark"}
    assert "weather" in grammars["required"].text
    assert "weather" not in grammars["named"].text


def test_one_call_at_a_time_is_promised_by_a_grammar(caller: Served) -> None:
    caller.chat(tools=TOOLS, parallel_tool_calls=False)
    assert caller.engine.asked[-1][1].grammar is not None


def test_thoughts_are_set_apart_in_both_forms() -> None:
    with served(["<think>\nTwo and two.\n</think>\n\nFour 四."]) as server:
        whole = server.chat().json()["choices"][0]["message"]
        assert whole["reasoning_content"] == "Two and two."
        assert whole["content"] == "Four 四."
        assert streamed_choice(server.chat_events())[0] == whole


def test_logprobs_name_every_shown_token_in_both_forms(plain: Served) -> None:
    whole = plain.chat(logprobs=True, top_logprobs=2).json()["choices"][0]
    entries = whole["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == TEXT
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == TEXT
    assert {entry["logprob"] for entry in entries} == {-0.5}
    assert all(set(entry) == {"token", "logprob", "bytes", "top_logprobs"} for entry in entries)
    assert streamed_choice(plain.chat_events(logprobs=True, top_logprobs=2))[2] == entries
    assert plain.engine.asked[-1][1].num_logprobs == 2
    assert plain.chat().json()["choices"][0]["logprobs"] is None


def test_fields_reach_the_engine_with_their_own_meaning(plain: Served) -> None:
    plain.chat(
        temperature=0.5,
        top_p=0.25,
        top_k=-1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={"5": -100, "7": 3},
        stop=["END", "\n\n", "END"],
        seed=11,
    )
    params = plain.engine.asked[-1][1]
    assert (params.temperature, params.top_p, params.top_k) == (0.5, 0.25, 0)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.5, -0.5, 1.5)
    assert params.logit_bias == ((5, -100.0), (7, 3.0))
    assert params.stop == ("END", "\n\n")
    assert params.seed == 11
    plain.chat(presence_penalty=0)
    assert plain.engine.asked[-1][1].repetition_penalty == 1.0


def test_temperature_zero_and_top_p_zero_are_greedy(plain: Served) -> None:
    for fields, greedy in (
        ({"temperature": 0}, True),
        ({"top_p": 0}, True),
        ({"temperature": 0.1}, False),
        ({}, False),
    ):
        plain.chat(**fields)
        assert plain.engine.asked[-1][1].greedy is greedy, fields


def test_response_formats_become_grammars(plain: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    for given, wanted in (({"type": "json_object"}, {"type": "object"}), (form, schema)):
        plain.chat(response_format=given)
        grammar = plain.engine.asked[-1][1].grammar
        assert grammar.kind == "json_schema"
        text = json.loads(grammar.text)
        assert text.pop("x-guidance")["whitespace_flexible"] is False
        assert text == wanted
    plain.chat(response_format={"type": "text"})
    assert plain.engine.asked[-1][1].grammar is None


def prompt_of(server: Served, messages: list[dict[str, Any]]) -> str:
    response = server.chat(messages=messages)
    assert response.status_code == 200, response.text
    return TOKENIZER.decode(server.engine.asked[-1][0])


def test_system_and_developer_messages_join_at_the_start(plain: Served) -> None:
    mixed = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
    ]
    joined = [{"role": "system", "content": "Be brief.\n\nBe kind."}, {"role": "user", "content": "Hello"}]
    assert prompt_of(plain, mixed) == prompt_of(plain, joined)


def call(name: str, number: str) -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": "{}"}}


def test_results_are_shown_in_the_order_of_their_calls(plain: Served) -> None:
    asked = [
        {"role": "user", "content": "Both?"},
        {"role": "assistant", "content": None, "tool_calls": [call("first", "a"), call("second", "b")]},
    ]
    results = [
        {"role": "tool", "tool_call_id": "a", "content": "RESULT-A"},
        {"role": "tool", "tool_call_id": "b", "content": "RESULT-B", "name": "second"},
    ]
    in_order = prompt_of(plain, [*asked, *results])
    assert in_order.index("RESULT-A") < in_order.index("RESULT-B")
    assert prompt_of(plain, [*asked, *reversed(results)]) == in_order


def test_an_answer_of_the_client_library_can_be_sent_back(plain: Served) -> None:
    answer = {
        "role": "assistant",
        "content": "Hi",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "reasoning_content": "hm",
    }
    assert "Hi" in prompt_of(plain, [{"role": "user", "content": "a"}, answer, {"role": "user", "content": "b"}])


def test_harmless_fields_change_nothing(plain: Served) -> None:
    plain.chat()
    wanted = plain.engine.asked[-1]
    response = plain.chat(
        user="u", metadata={"a": "b"}, store=False, service_tier="auto", modalities=["text"], safety_identifier="x",
        prompt_cache_key="k", parallel_tool_calls=True, stream=False, stream_options=None, logit_bias=None, stop=None,
    )  # fmt: skip
    assert response.status_code == 200
    assert plain.engine.asked[-1] == wanted


REFUSED = [
    ({"foo": 1}, "foo"),
    ({"temprature": 1}, "temprature"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"store": True}, "store"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"functions": []}, "functions"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"modalities": ["audio"]}, "modalities[0]"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": "x", "name": "bob"}]}, "messages[0].name"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
     "messages[0].content[0].type"),
    ({"messages": [{"role": "tool", "tool_call_id": "no", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{broken"}}]}]},
     "messages[1].tool_calls[0].function.arguments"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
    ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].function.name"),
    ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "enable_thinking"),
    ({"chat_template_kwargs": {"color": "red"}}, "chat_template_kwargs.color"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_refused_by_name(
    plain: Served, fields: dict[str, Any], param: str, stream: bool
) -> None:
    num_asked = len(plain.engine.asked)
    error = error_of(plain.chat(stream=stream, **fields), 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert len(plain.engine.asked) == num_asked


def test_stream_options_need_a_stream(plain: Served) -> None:
    assert error_of(plain.chat(stream_options={"include_usage": True}), 400)["param"] == "stream_options"


def test_tools_are_refused_where_the_template_shows_none_or_hides_calls() -> None:
    with served(["x"], template=None) as server:
        error = error_of(server.chat(tools=TOOLS), 400)
        assert (error["param"], error["code"]) == ("tools", "unsupported_parameter")
        assert server.chat(tools=TOOLS, tool_choice="none").status_code == 400


def test_a_typo_gets_the_nearest_field(plain: Served) -> None:
    assert "temperature" in error_of(plain.chat(temprature=1), 400)["message"]


def test_a_prompt_that_fills_the_context_is_refused_not_cut(plain: Served) -> None:
    error = error_of(plain.chat(messages=[{"role": "user", "content": "word " * 9000}]), 400)
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")


def test_an_error_in_the_middle_of_a_stream_is_an_event_and_the_end(plain: Served) -> None:
    class Broken(type(plain.engine)):  # type: ignore[misc]
        def submit(self, prompt_ids: Any, params: Any, deliver: Any, model: Any = None) -> Any:
            def first_only(event: Any) -> None:
                deliver(event)
                deliver(RuntimeError("secret words of the prompt"))

            return super().submit(prompt_ids, params, first_only, model)

    with served(engine=Broken(TOKENIZER, ["Hi there"])) as server:
        text = server.chat(stream=True).content.decode()
        last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["type"] == "server_error"
        assert "[DONE]" not in text
        assert "secret" not in text
        assert error_of(server.chat(), 500)["code"] == "internal_error"


def test_the_first_model_can_be_renamed_and_adapters_are_chosen_by_name() -> None:
    with served(models=("tuned", "base"), model_name="gpt-3.5-turbo") as server:
        listed = server.client.get("/v1/models").json()
        assert [model["id"] for model in listed["data"]] == ["gpt-3.5-turbo", "base"]
        assert server.client.get("/v1/models/base").json()["id"] == "base"
        for name, wanted in (("gpt-3.5-turbo", "tuned"), ("base", "base")):
            assert server.chat(model=name).json()["model"] == name
            assert server.engine.asked[-1][2] == wanted
        for response in (server.chat(model="tuned"), server.client.get("/v1/models/tuned")):
            error = error_of(response, 404)
            assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_events_are_read_by_the_helper_as_the_standard_says() -> None:
    with served(["ok"]) as server, pytest.raises(AssertionError):
        events_of(server.chat())
