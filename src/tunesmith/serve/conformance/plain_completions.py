"""POST /v1/completions."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.serve.conformance.suite import Checks
from tunesmith.serve.conformance.target import Failed, Mode, Skipped, Target, error_of, expect, read_events

CHECKS = Checks()


def _complete(target: Target, mode: Mode, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    """The choices, each with text and finish_reason, whatever way they came."""
    body = {"model": target.model, "prompt": prompt, "temperature": 0, "max_tokens": 8, **fields}
    response = target.send("POST", "completions", {**body, "stream": mode == "stream"})
    if response.status_code != 200:
        raise Failed(f"status {response.status_code}: {response.text[:300]}")
    if mode == "plain":
        return [dict(choice) for choice in response.json()["choices"]]
    joined: dict[int, dict[str, Any]] = {}
    for event in read_events(response):
        for choice in event["choices"]:
            entry = joined.setdefault(choice["index"], {"text": "", "finish_reason": None})
            entry["text"] += choice["text"]
            entry["finish_reason"] = choice["finish_reason"] or entry["finish_reason"]
    return [joined[index] for index in sorted(joined)]


@CHECKS.add("completions: texts, lists, token ids")
def _prompts(target: Target, mode: Mode) -> None:
    one = _complete(target, mode, "The sky is")
    expect(len(one) == 1 and one[0]["finish_reason"] in ("stop", "length"), f"{one}")
    two = _complete(target, mode, ["The sky is", "Grass is"], n=2)
    expect(len(two) == 4, f"{len(two)} answers to two prompts with n=2")
    expect(two[0]["text"] == two[1]["text"] == one[0]["text"], "an answer in company differs from the one alone")
    expect(len(_complete(target, mode, [5, 6, 7])) == 1, "token ids are not read")
    expect(len(_complete(target, mode, [[5, 6, 7], [8]])) == 2, "lists of token ids are not read")


@CHECKS.add("completions: echo")
def _echo(target: Target, mode: Mode) -> None:
    expect(_complete(target, mode, "The sky is", echo=True)[0]["text"].startswith("The sky is"), "nothing is echoed")


@CHECKS.add("completions: logprobs", ["plain"])
def _logprobs(target: Target, mode: Mode) -> None:
    choice = _complete(target, mode, "The sky is", logprobs=2)[0]
    lists = choice["logprobs"]
    expect("".join(lists["tokens"]) == choice["text"], "the tokens do not make the text")
    sizes = {len(lists[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}
    expect(len(sizes) == 1, f"the lists have different lengths: {sizes}")


@CHECKS.add("completions: logprobs of an echoed prompt", ["plain"])
def _echoed_logprobs(target: Target, mode: Mode) -> None:
    """As programs ask that score given answers: `lm_eval --model local-completions` does."""
    body = {"model": target.model, "prompt": "The sky is blue", "max_tokens": 1, "temperature": 0}
    response = target.send("POST", "completions", {**body, "echo": True, "logprobs": 1})
    if response.status_code == 400 and '"unsupported_parameter"' in response.text:
        raise Skipped(response.json()["error"]["message"])
    expect(response.status_code == 200, f"status {response.status_code}: {response.text[:300]}")
    choice = response.json()["choices"][0]
    lists = choice["logprobs"]
    expect("".join(lists["tokens"]).endswith(choice["text"]), "the tokens do not make the text")
    expect(lists["token_logprobs"][0] is None, "the first token has a log-probability, with nothing before it")
    for own, best in zip(lists["token_logprobs"][1:], lists["top_logprobs"][1:], strict=True):
        expect(own <= max(best.values()) <= 0, f"{own} is above the best, {best}")


@CHECKS.add("completions: refusals", ["plain"])
def _refusals(target: Target, mode: Mode) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"suffix": "x"}, {"best_of": 3}, {"prompt": []}, {"prompt": [10**8]}, {"nothing": 1}
    )  # fmt: skip
    for fields in wrong:
        body = {"model": target.model, "prompt": "x", "max_tokens": 1, **fields}
        error = error_of(target.send("POST", "completions", body), 400)
        expect(str(error["param"]).startswith(next(iter(fields))), f"{json.dumps(fields)}: param is {error['param']}")
