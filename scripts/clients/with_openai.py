"""The features through OpenAI's Python client, synchronous and asynchronous; 1.0.0 knows few fields by name."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
from verdicts import FORM, KEY, MODEL, NAMED, QUESTION, TOOL, URL, expect, tell

SYNC = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)
LOOP = asyncio.new_event_loop()


class Told:
    """An answer, whatever way it came."""

    def __init__(self) -> None:
        self.text, self.reason, self.usage = "", None, None
        self.calls: list[list[str]] = []
        self.num_logprobs = 0

    def _add(self, chunk: Any) -> None:
        usage = getattr(chunk, "usage", None)  # a dictionary where the client is older than the field
        self.usage = usage if usage is None or isinstance(usage, dict) else usage.model_dump()
        for choice in chunk.choices:
            part = getattr(choice, "delta", None) or choice.message
            self.text += part.content or ""
            self.reason = choice.finish_reason or self.reason
            for call in getattr(part, "tool_calls", None) or []:
                self._add_call(call if isinstance(call, dict) else call.model_dump())
            found = getattr(choice, "logprobs", None) or {}
            content = found.get("content") if isinstance(found, dict) else found.content
            self.num_logprobs += len(content or [])

    def _add_call(self, call: dict[str, Any]) -> None:
        index = call.get("index")
        if index is None or index == len(self.calls):
            self.calls.append([call["function"]["name"], ""])
        self.calls[-1][1] += call["function"].get("arguments") or ""


def ask(kind: str, mode: str, **extra: Any) -> Told:
    """One chat answer; newer fields go through `extra_body`, which every 1.x has."""
    body = {"temperature": 0, "max_tokens": 60, **extra}
    if mode == "stream":
        body["stream_options"] = {"include_usage": True}
    known = {name: body.pop(name) for name in ("temperature", "max_tokens", "stop", "n", "model") if name in body}
    fields: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], **known}
    told = Told()
    if kind == "sync":
        answer = SYNC.chat.completions.create(**fields, stream=mode == "stream", extra_body=body)
        for chunk in answer if mode == "stream" else [answer]:
            told._add(chunk)
        return told
    LOOP.run_until_complete(_ask_later(told, fields, mode, body))
    return told


async def _ask_later(told: Told, fields: dict[str, Any], mode: str, body: dict[str, Any]) -> None:
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0) as client:
        answer = await client.chat.completions.create(**fields, stream=mode == "stream", extra_body=body)
        if mode != "stream":
            told._add(answer)
            return
        async for chunk in answer:
            told._add(chunk)


def _chat(kind: str, mode: str) -> None:
    told = ask(kind, mode)
    expect(told.text and told.reason in ("stop", "length") and told.usage, (told.text, told.reason, told.usage))


def _limit(kind: str, mode: str) -> None:
    told = ask(kind, mode, max_tokens=3)
    expect(told.reason == "length" and told.usage["completion_tokens"] == 3, (told.reason, told.usage))


def _stop(kind: str, mode: str) -> None:
    whole = ask(kind, mode).text
    told = ask(kind, mode, stop=[whole[4:7]])
    expect(told.text == whole[: whole.index(whole[4:7])] and told.reason == "stop", (whole, told.text, told.reason))


def _tool(kind: str, mode: str) -> None:
    told = ask(kind, mode, tools=[TOOL], tool_choice=NAMED, max_tokens=150)
    expect(told.reason == "tool_calls" and len(told.calls) == 1, (told.reason, told.calls))
    expect(told.calls[0][0] == "weather" and "city" in json.loads(told.calls[0][1]), told.calls)


def _schema(kind: str, mode: str) -> None:
    expect(
        set(json.loads(ask(kind, mode, response_format=FORM, max_tokens=150).text)) == {"city", "big"}, "not the schema"
    )


def _logprobs(kind: str, mode: str) -> None:
    expect(ask(kind, mode, logprobs=True, top_logprobs=2, max_tokens=4).num_logprobs == 4, "not four of them")


def _errors(kind: str, mode: str) -> None:
    cases: list[tuple[type[Exception], dict[str, Any]]] = [
        (openai.NotFoundError, {"model": "no-such-model"}),
        (openai.BadRequestError, {"no_such_field": 1}),
    ]
    for wanted, extra in cases:
        try:
            ask(kind, mode, **extra)
        except wanted:
            continue
        raise AssertionError(f"{extra} raises no {wanted.__name__}")


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
    for kind in ("sync", "async"):
        for feature, check in FEATURES.items():
            for mode in ("plain", "stream"):
                name = f"openai {openai.__version__} {kind}"
                tell(name, feature, mode, lambda check=check, kind=kind, mode=mode: check(kind, mode))
