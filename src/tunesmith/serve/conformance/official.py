"""The same through OpenAI's own Python client, where it is installed: its parsing, its exceptions, its streams."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Any

from tunesmith.serve.conformance.suite import Checks
from tunesmith.serve.conformance.target import Failed, Mode, Skipped, Target, expect
from tunesmith.serve.conformance.tools import WEATHER

CHECKS = Checks()
MESSAGES: list[Any] = [{"role": "user", "content": "Say hello."}]


def _client(target: Target, kind: str = "OpenAI") -> Any:
    if find_spec("openai") is None:
        raise Skipped("the openai package is not installed")
    import openai

    return getattr(openai, kind)(base_url=target.url, api_key=target.key or "none", max_retries=0)


@CHECKS.add("openai client: chat")
def _chat(target: Target, mode: Mode) -> None:
    fields: dict[str, Any] = {"model": target.model, "messages": MESSAGES, "temperature": 0, "max_tokens": 8}
    wanted = target.chat("plain", MESSAGES, max_tokens=8).first.text
    with _client(target) as client:
        if mode == "plain":
            text = client.chat.completions.create(**fields).choices[0].message.content
        else:
            chunks = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            expect(chunks[-1].usage is not None, "the last chunk has no usage")
    expect(text == wanted, f"{text!r} is not {wanted!r}")


@CHECKS.add("openai client: asynchronous chat")
def _async_chat(target: Target, mode: Mode) -> None:
    fields: dict[str, Any] = {"model": target.model, "messages": MESSAGES, "temperature": 0, "max_tokens": 8}

    async def ask() -> str:
        async with _client(target, "AsyncOpenAI") as client:
            if mode == "plain":
                return str((await client.chat.completions.create(**fields)).choices[0].message.content)
            stream = await client.chat.completions.create(**fields, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    expect(asyncio.run(ask()) == target.chat("plain", MESSAGES, max_tokens=8).first.text, "the answer differs")


@CHECKS.add("openai client: a forced tool call")
def _tools(target: Target, mode: Mode) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    fields: dict[str, Any] = {
        "model": target.model,
        "messages": MESSAGES,
        "tools": [WEATHER],
        "tool_choice": choice,
        "max_tokens": 100,
    }
    with _client(target) as client:
        import openai

        try:
            if mode == "plain":
                calls = client.chat.completions.create(**fields, temperature=0).choices[0].message.tool_calls
                name = calls[0].function.name if calls else None
            else:
                chunks = list(client.chat.completions.create(**fields, temperature=0, stream=True))
                parts = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
                name = parts[0].function.name if parts else None
        except openai.BadRequestError as error:
            if error.code == "unsupported_parameter":
                raise Skipped(str(error)[:200]) from None
            raise
    expect(name == "weather", f"{name} is called")


@CHECKS.add("openai client: models, completions")
def _others(target: Target, mode: Mode) -> None:
    fields: dict[str, Any] = {"model": target.model, "prompt": "The sky is", "max_tokens": 4, "temperature": 0}
    with _client(target) as client:
        expect(target.model in [model.id for model in client.models.list()], "the model is not listed")
        if mode == "plain":
            text = client.completions.create(**fields).choices[0].text
        else:
            text = "".join(chunk.choices[0].text for chunk in client.completions.create(**fields, stream=True))
    expect(bool(text), "the completion is empty")


@CHECKS.add("openai client: exceptions by class")
def _exceptions(target: Target, mode: Mode) -> None:
    with _client(target) as client:
        import openai

        base: dict[str, Any] = {
            "model": target.model,
            "messages": MESSAGES,
            "max_tokens": 1,
            "stream": mode == "stream",
        }
        cases: list[tuple[type[Exception], dict[str, Any]]] = [
            (openai.NotFoundError, {"model": "no-such-model"}),
            (openai.BadRequestError, {"messages": []}),
            (openai.BadRequestError, {"extra_body": {"no_such_field": 1}}),
        ]
        for wanted, change in cases:
            try:
                client.chat.completions.create(**{**base, **change})
            except wanted:
                continue
            raise Failed(f"{change} does not raise {wanted.__name__}")
        if target.key:
            try:
                client.with_options(api_key="wrong").models.list()
            except openai.AuthenticationError:
                return
            raise Failed("a wrong key does not raise AuthenticationError")
