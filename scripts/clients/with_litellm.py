"""The features through LiteLLM, which rebuilds every request and every answer."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import litellm
from verdicts import FORM, KEY, MODEL, NAMED, QUESTION, TOOL, URL, expect, tell

litellm.telemetry = False
litellm.suppress_debug_info = True


def _ask(mode: str, **extra: Any) -> Any:
    messages = [{"role": "user", "content": QUESTION}]
    fields = {"model": f"openai/{MODEL}", "max_tokens": 60, "temperature": 0, "num_retries": 0, **extra}
    if mode == "stream":
        fields["stream_options"] = {"include_usage": True}
    answer = litellm.completion(messages=messages, api_base=URL, api_key=KEY, stream=mode == "stream", **fields)
    return litellm.stream_chunk_builder(list(answer), messages=messages) if mode == "stream" else answer


def _chat(mode: str) -> None:
    answer = _ask(mode)
    expect(answer.choices[0].message.content and answer.usage.total_tokens > 0, answer)


def _limit(mode: str) -> None:
    expect(_ask(mode, max_tokens=3).choices[0].finish_reason == "length", "not length")


def _stop(mode: str) -> None:
    whole = _ask(mode).choices[0].message.content
    stopped = _ask(mode, stop=[whole[4:7]]).choices[0].message.content or ""
    expect(stopped == whole[: whole.index(whole[4:7])], (whole, stopped))


def _tool(mode: str) -> None:
    choice = _ask(mode, tools=[TOOL], tool_choice=NAMED, max_tokens=150).choices[0]
    call = choice.message.tool_calls[0].function
    expect(call.name == "weather" and "city" in json.loads(call.arguments), choice)


def _schema(mode: str) -> None:
    content = _ask(mode, response_format=FORM, max_tokens=150).choices[0].message.content
    expect(set(json.loads(content)) == {"city", "big"}, content)


def _logprobs(mode: str) -> None:
    answer = _ask("plain", max_tokens=4, logprobs=True, top_logprobs=2)
    expect(len(answer.choices[0].logprobs.content) == 4, answer)


def _errors(mode: str) -> None:
    cases = ((litellm.NotFoundError, {"model": "openai/none"}), (litellm.BadRequestError, {"extra_body": {"x": 1}}))
    for wanted, extra in cases:
        try:
            _ask(mode, **extra)
        except wanted:
            continue
        raise AssertionError(f"no {wanted.__name__}")


FEATURES = {
    "chat with usage": (_chat, ("plain", "stream")),
    "max_tokens": (_limit, ("plain", "stream")),
    "stop text": (_stop, ("plain", "stream")),
    "named tool call": (_tool, ("plain", "stream")),
    "JSON schema": (_schema, ("plain", "stream")),
    "logprobs": (_logprobs, ("plain",)),  # its own joining of a stream leaves them out
    "errors by class": (_errors, ("plain", "stream")),
}

if __name__ == "__main__":
    for feature, (check, modes) in FEATURES.items():
        for mode in modes:
            tell(f"litellm {version('litellm')}", feature, mode, lambda check=check, mode=mode: check(mode))
