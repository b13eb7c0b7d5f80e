"""The features through LangChain's ChatOpenAI."""

from __future__ import annotations

import json
from functools import reduce
from importlib.metadata import version
from operator import add
from typing import Any

import openai
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from verdicts import FORM, KEY, MODEL, QUESTION, TOOL, URL, expect, tell


def _model(**fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=URL, api_key=KEY, model=fields.pop("model", MODEL), temperature=0, max_retries=0, stream_usage=True,
        max_tokens=fields.pop("max_tokens", 60), **fields,
    )  # fmt: skip


def _ask(runnable: Any, mode: str, messages: Any = QUESTION) -> Any:
    return reduce(add, runnable.stream(messages)) if mode == "stream" else runnable.invoke(messages)


def _chat(mode: str) -> None:
    message = _ask(_model(), mode)
    expect(message.content and message.usage_metadata["total_tokens"] > 0, message)


def _limit(mode: str) -> None:
    message = _ask(_model(max_tokens=3), mode)
    expect(message.response_metadata["finish_reason"] == "length", message)


def _stop(mode: str) -> None:
    whole = _ask(_model(), mode).content
    expect(_ask(_model(stop=[whole[4:7]]), mode).content == whole[: whole.index(whole[4:7])], whole)


def _tool(mode: str) -> None:
    message = _ask(_model(max_tokens=150).bind_tools([TOOL], tool_choice="weather"), mode)
    expect(message.tool_calls[0]["name"] == "weather" and "city" in message.tool_calls[0]["args"], message)
    turns = [
        HumanMessage("Weather in Paris?"),
        AIMessage(content=message.content, tool_calls=message.tool_calls),
        ToolMessage("raining frogs", tool_call_id=message.tool_calls[0]["id"], name="weather"),
    ]
    expect(_ask(_model(max_tokens=8).bind_tools([TOOL]), mode, turns) is not None, "no answer to the result")


def _schema(mode: str) -> None:
    message = _ask(_model(max_tokens=150).bind(response_format=FORM), mode)
    expect(set(json.loads(message.content)) == {"city", "big"}, message)


def _logprobs(mode: str) -> None:
    message = _ask(_model(max_tokens=4, logprobs=True, top_logprobs=2), mode)
    expect(len(message.response_metadata["logprobs"]["content"]) == 4, message)


def _errors(mode: str) -> None:
    for wanted, made in (
        (openai.NotFoundError, _model(model="none")),
        (openai.BadRequestError, _model(extra_body={"x": 1})),
    ):
        try:
            _ask(made, mode)
        except wanted:
            continue
        raise AssertionError(f"no {wanted.__name__}")


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
            name = f"langchain-openai {version('langchain-openai')}"
            tell(name, feature, mode, lambda check=check, mode=mode: check(mode))
