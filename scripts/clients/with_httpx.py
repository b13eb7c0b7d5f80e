"""The features as bytes on the wire, read by the rules of server-sent events and nothing else."""

from __future__ import annotations

import json
from typing import Any

import httpx
from verdicts import FORM, KEY, MODEL, NAMED, QUESTION, TOOL, URL, expect, tell

CLIENT = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=300)


def ask(mode: str, status: int = 200, **extra: Any) -> list[dict[str, Any]]:
    """The choices of every event, or of the only body."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 60}
    if mode == "stream":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    content = b""
    with CLIENT.stream("POST", f"{URL}/chat/completions", json={**body, **extra}) as response:
        for part in response.iter_raw():
            content += part
    expect(response.status_code == status, content)
    if mode != "stream" or status != 200:
        return [json.loads(content)]
    *blocks, done, rest = content.split(b"\n\n")
    expect((done, rest) == (b"data: [DONE]", b""), "no [DONE] at the end")
    events = [json.loads(block.removeprefix(b"data: ").decode("utf-8")) for block in blocks]
    expect(events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}, events[0])
    expect(events[-1]["choices"] == [] and events[-1]["usage"]["total_tokens"] > 0, events[-1])
    return events


def parts(mode: str, **extra: Any) -> list[dict[str, Any]]:
    """Every choice that was told, in order."""
    return [choice for event in ask(mode, **extra) for choice in event["choices"]]


def text(choices: list[dict[str, Any]]) -> str:
    """The joined content."""
    return "".join(
        (choice.get("delta") or choice["message"]).get("content") or ""
        for choice in choices
        if choice.get("delta") != {}
    )


def _chat(mode: str) -> None:
    choices = parts(mode)
    expect(text(choices) and choices[-1]["finish_reason"] in ("stop", "length"), choices[-1])


def _limit(mode: str) -> None:
    expect(parts(mode, max_tokens=3)[-1]["finish_reason"] == "length", "not length")


def _stop(mode: str) -> None:
    whole = text(parts(mode))
    expect(text(parts(mode, stop=whole[4:7])) == whole[: whole.index(whole[4:7])], whole)


def _tool(mode: str) -> None:
    choices = parts(mode, tools=[TOOL], tool_choice=NAMED, max_tokens=150)
    calls = [
        c for choice in choices for c in (choice.get("delta") or choice.get("message") or {}).get("tool_calls", [])
    ]
    expect(choices[-1]["finish_reason"] == "tool_calls", choices[-1])
    expect("city" in json.loads("".join(call["function"]["arguments"] for call in calls)), calls)


def _schema(mode: str) -> None:
    expect(
        set(json.loads(text(parts(mode, response_format=FORM, max_tokens=150)))) == {"city", "big"}, "not the schema"
    )


def _logprobs(mode: str) -> None:
    choices = parts(mode, logprobs=True, top_logprobs=2, max_tokens=4)
    entries = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    expect(len(entries) == 4 and "".join(entry["token"] for entry in entries) == text(choices), entries)


def _errors(mode: str) -> None:
    for status, extra in ((404, {"model": "no-such-model"}), (400, {"no_such_field": 1})):
        expect(set(ask(mode, status, **extra)[0]["error"]) == {"message", "type", "param", "code"}, "another shape")


FEATURES = {
    "chat with usage": _chat,
    "max_tokens": _limit,
    "stop text": _stop,
    "named tool call": _tool,
    "JSON schema": _schema,
    "logprobs": _logprobs,
    "errors by class": _errors,
}

if __name__ == "__main__":
    for feature, check in FEATURES.items():
        for mode in ("plain", "stream"):
            tell(f"httpx {httpx.__version__} raw", feature, mode, lambda check=check, mode=mode: check(mode))
