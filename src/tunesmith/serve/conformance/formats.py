"""Answers of a given form, and log-probabilities."""

from __future__ import annotations

import json
import math

from tunesmith.serve.conformance.suite import Checks
from tunesmith.serve.conformance.target import Mode, Target, expect

CHECKS = Checks()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}


@CHECKS.add("JSON object")
def _json_object(target: Target, mode: Mode) -> None:
    form = {"type": "json_object"}
    answer = target.chat(mode, "Give a JSON object with the key a.", response_format=form, max_tokens=40).first
    if answer.finish_reason == "stop":
        expect(isinstance(json.loads(answer.text), dict), "it is no object")
    else:
        expect(answer.text.lstrip().startswith("{"), f"it does not begin as an object: {answer.text[:60]!r}")


@CHECKS.add("JSON schema")
def _json_schema(target: Target, mode: Mode) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}}
    answer = target.chat(mode, "Tell me about Paris.", response_format=form, max_tokens=120).first
    expect(answer.finish_reason == "stop", f"finish_reason is {answer.finish_reason}")
    value = json.loads(answer.text)
    expect(set(value) == {"city", "big"}, f"the keys are {set(value)}")
    expect(isinstance(value["city"], str) and isinstance(value["big"], bool), f"wrong types: {value}")


@CHECKS.add("logprobs")
def _logprobs(target: Target, mode: Mode) -> None:
    answer = target.chat(mode, "Say hello in Chinese: 你好", logprobs=True, top_logprobs=3, max_tokens=10).first
    expect(bool(answer.logprobs), "there are none")
    expect("".join(entry["token"] for entry in answer.logprobs) == answer.text, "the tokens do not make the text")
    told = b"".join(bytes(entry["bytes"]) for entry in answer.logprobs)
    expect(told.decode("utf-8", "replace") == answer.text, "the bytes do not make the text")
    for entry in answer.logprobs:
        best = [other["logprob"] for other in entry["top_logprobs"]]
        expect(len(best) == 3, f"{len(best)} alternatives of 3")
        expect(best == sorted(best, reverse=True), "alternatives are not in order")
        expect(entry["logprob"] <= 0 and sum(map(math.exp, best)) <= 1.001, "these are no probabilities")
        expect(abs(entry["logprob"] - best[0]) < 0.05, "a greedy token is not the likeliest one")
