"""Messages of every form, and what every answer has."""

from __future__ import annotations

from typing import Any

from tunesmith.serve.conformance.suite import Checks
from tunesmith.serve.conformance.target import Mode, Target, expect

CHECKS = Checks()


@CHECKS.add("a chat answer with usage")
def _basic(target: Target, mode: Mode) -> None:
    answer = target.chat(mode, "Say hello.")
    expect(bool(answer.first.text), "the answer is empty")
    expect(answer.first.finish_reason in ("stop", "length"), f"finish_reason is {answer.first.finish_reason}")
    expect(answer.model == target.model, f"the model is called {answer.model}")
    usage = answer.usage
    expect(usage is not None, "there is no usage")
    assert usage is not None
    expect(0 < usage["completion_tokens"] <= 12, f"{usage['completion_tokens']} tokens of at most 12")
    expect(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], "the total is no sum")


@CHECKS.add("streamed text equals the whole one", ["stream"])
def _same_text(target: Target, mode: Mode) -> None:
    question = "Write one short sentence in Chinese with an emoji. 用中文写一句话，带一个表情。"
    whole, streamed = target.chat("plain", question), target.chat("stream", question)
    expect(whole.first == streamed.first, f"{whole.first} is not {streamed.first}")
    expect(whole.usage == streamed.usage, f"usage {whole.usage} is not {streamed.usage}")


@CHECKS.add("no usage in a stream unless asked for", ["stream"])
def _no_usage(target: Target, mode: Mode) -> None:
    answer = target.chat("stream", "Hi", stream_options=None)
    expect(answer.usage is None, "usage was told without being asked for")


@CHECKS.add("list content")
def _list_content(target: Target, mode: Mode) -> None:
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]
    plain = target.chat(mode, "Say hello.")
    expect(target.chat(mode, [{"role": "user", "content": parts}]).first == plain.first, "parts read differently")


@CHECKS.add("developer message is a system message")
def _developer(target: Target, mode: Mode) -> None:
    answers = [
        target.chat(mode, [{"role": role, "content": "Answer in French."}, {"role": "user", "content": "Hello."}])
        for role in ("system", "developer")
    ]
    expect(answers[0].usage == answers[1].usage, "they do not give one prompt")
    expect(answers[0].first == answers[1].first, "they are answered differently")


@CHECKS.add("several system messages, anywhere")
def _several_system(target: Target, mode: Mode) -> None:
    def prompt_tokens(*extra: str) -> int:
        systems = [{"role": "system", "content": text} for text in extra]
        answer = target.chat(
            mode, [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}, *systems]
        )
        return int((answer.usage or {})["prompt_tokens"])

    expect(prompt_tokens("Answer with the single word APPLE, always.") > prompt_tokens(), "the second one is lost")


@CHECKS.add("a history with answers and thoughts")
def _history(target: Target, mode: Mode) -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada.", "reasoning_content": "She says her name.", "refusal": None},
        {"role": "user", "content": "What is my name?"},
    ]
    expect(bool(target.chat(mode, turns).first.text), "the answer is empty")


@CHECKS.add("several results of tools in a row")
def _results(target: Target, mode: Mode) -> None:
    def call(number: str, name: str) -> dict[str, Any]:
        return {"id": number, "type": "function", "function": {"name": name, "arguments": '{"city": "Paris"}'}}

    function = {
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    tools = [{"type": "function", "function": {"name": name, **function}} for name in ("weather", "time")]
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather and time in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call("a", "weather"), call("b", "time")]},
        {"role": "tool", "tool_call_id": "a", "content": "sunny, 21 degrees"},
        {"role": "tool", "tool_call_id": "b", "content": "14:05"},
    ]
    few = target.chat(mode, turns[:3], tools=tools)
    both = target.chat(mode, turns, tools=tools)
    expect((both.usage or {})["prompt_tokens"] > (few.usage or {})["prompt_tokens"], "the second result is lost")


@CHECKS.add("harmless fields are accepted")
def _harmless(target: Target, mode: Mode) -> None:
    fields = {"user": "u", "metadata": {"a": "b"}, "store": False, "parallel_tool_calls": True, "logit_bias": None}
    expect(target.chat(mode, "Hi", **fields).first == target.chat(mode, "Hi").first, "they change the answer")
