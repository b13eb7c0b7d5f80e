"""Calls of tools: forced, one at a time, several, forbidden, and answered."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.serve.conformance.suite import Checks
from tunesmith.serve.conformance.target import Answer, Mode, Target, expect

CHECKS = Checks()


def _tool(name: str, field: str, kind: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {field: {"type": kind, **({"maxLength": 8} if kind == "string" else {"enum": [1, 2]})}},
        "required": [field],
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": f"Look up the {name}.", "parameters": parameters},
    }


WEATHER, CLOCK = _tool("weather", "city", "string"), _tool("clock", "zone", "integer")
QUESTION = "What is the weather in Paris, and what time is it there?"


def _ask(target: Target, mode: Mode, **fields: Any) -> Answer:
    return target.chat(mode, QUESTION, **{"tools": [WEATHER, CLOCK], "max_tokens": 120, **fields})


def _check_calls(answer: Answer, names: set[str], reasons: tuple[str, ...] = ("tool_calls",)) -> None:
    expect(bool(answer.first.calls), "nothing is called")
    expect(answer.first.finish_reason in reasons, f"finish_reason is {answer.first.finish_reason}")
    expect(len({call["id"] for call in answer.first.calls}) == len(answer.first.calls), "calls share an id")
    for call in answer.first.calls:
        expect(call["type"] == "function", "a call is no function")
        expect(call["function"]["name"] in names, f"{call['function']['name']} is called")
        arguments = json.loads(call["function"]["arguments"])
        wanted = "city" if call["function"]["name"] == "weather" else "zone"
        expect(set(arguments) == {wanted}, f"the arguments are {arguments}")


@CHECKS.add("tool_choice required")
def _required(target: Target, mode: Mode) -> None:
    # a model may call on and on until the limit
    _check_calls(_ask(target, mode, tool_choice="required"), {"weather", "clock"}, ("tool_calls", "length"))


@CHECKS.add("tool_choice named")
def _named(target: Target, mode: Mode) -> None:
    for name in ("weather", "clock"):
        answer = _ask(target, mode, tool_choice={"type": "function", "function": {"name": name}})
        _check_calls(answer, {name})


@CHECKS.add("one tool call at a time")
def _single(target: Target, mode: Mode) -> None:
    answer = _ask(target, mode, tool_choice="required", parallel_tool_calls=False)
    _check_calls(answer, {"weather", "clock"})
    expect(len(answer.first.calls) == 1, f"{len(answer.first.calls)} calls")


@CHECKS.add("tool calls equal in both forms", ["stream"])
def _same(target: Target, mode: Mode) -> None:
    answers = [_ask(target, each, tool_choice="required") for each in ("plain", "stream")]
    calls = [[call["function"] for call in answer.first.calls] for answer in answers]
    expect(calls[0] == calls[1], f"{calls[0]} is not {calls[1]}")
    expect(answers[0].first.content == answers[1].first.content, "the content differs")


@CHECKS.add("tool_choice auto")
def _auto(target: Target, mode: Mode) -> None:
    answer = _ask(target, mode).first
    expect(bool(answer.text or answer.calls), "the answer is empty")
    expect(
        (answer.finish_reason == "tool_calls") == bool(answer.calls) or answer.finish_reason == "length",
        "finish_reason",
    )


@CHECKS.add("tool_choice none")
def _none(target: Target, mode: Mode) -> None:
    answer = _ask(target, mode, tool_choice="none").first
    expect(not answer.calls, "a tool is called all the same")
    expect(answer.finish_reason != "tool_calls", "finish_reason is tool_calls")


@CHECKS.add("a tool's result is answered")
def _follow_up(target: Target, mode: Mode) -> None:
    calls = _ask(target, mode, tool_choice={"type": "function", "function": {"name": "weather"}}).first.calls
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "It is raining frogs."},
    ]
    answer = target.chat(mode, turns, tools=[WEATHER, CLOCK], tool_choice="none", max_tokens=12).first
    expect(bool(answer.text), "the answer is empty")
