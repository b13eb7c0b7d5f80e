"""The server under test, spoken to in raw HTTP, and its chat answers in one form, streamed or not.

A streamed answer is read byte by byte by the rules of server-sent events and checked against those of OpenAI's streams
while it is read: a server that breaks one fails whatever was being checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

Mode = Literal["plain", "stream"]
TIMEOUT_S = 300.0


class Failed(Exception):
    """The server does not do what its clients expect."""


class Skipped(Exception):
    """The server says that it cannot do this."""


def expect(holds: bool, otherwise: str) -> None:
    """Raises: Failed with `otherwise` when `holds` is false."""
    if not holds:
        raise Failed(otherwise)


@dataclass
class Choice:
    """One answer, whatever way it came."""

    content: str | None = None
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The content, empty for none."""
        return self.content or ""


@dataclass
class Answer:
    """All choices of a response, and its usage."""

    choices: list[Choice]
    usage: Mapping[str, Any] | None
    model: str

    @property
    def first(self) -> Choice:
        """The only choice that most requests have."""
        return self.choices[0]


@dataclass(frozen=True)
class Target:
    """A server: its base URL (which ends with /v1), key and model."""

    url: str
    key: str
    model: str

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """One request; `path` is below the base URL, or from the root when it begins with a slash."""
        base = self.url if not path.startswith("/") else self.url.removesuffix("/v1")
        address = f"{base}/{path.lstrip('/')}"
        known = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        return httpx.request(
            method, address, content=content, headers={**known, **kind, **(headers or {})}, timeout=TIMEOUT_S
        )

    def chat(self, mode: Mode, messages: Sequence[Mapping[str, Any]] | str, **fields: Any) -> Answer:
        """A chat answer at temperature 0, unless `fields` say otherwise.

        Raises: Skipped when the server says that it does not support a field; Failed for no answer else.
        """
        response = self.try_chat(mode, messages, **fields)
        if response.status_code == 400 and '"unsupported_parameter"' in response.text:
            raise Skipped(response.json()["error"]["message"])
        if response.status_code != 200:
            raise Failed(f"status {response.status_code}: {response.text[:300]}")
        return read_chat(response, len_choices=fields.get("n", 1)) if mode == "stream" else _whole(response.json())

    def try_chat(self, mode: Mode, messages: Sequence[Mapping[str, Any]] | str, **fields: Any) -> httpx.Response:
        """The response to a chat request, whatever it is."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 12, **fields}
        if mode == "stream":
            body = {"stream": True, "stream_options": {"include_usage": True}, **body}
        return self.send("POST", "chat/completions", body)


def error_of(response: httpx.Response, *statuses: int) -> Mapping[str, Any]:
    """The error of a response in OpenAI's shape. Raises: Failed when it is none, or has another status."""
    expect(response.status_code in statuses, f"status {response.status_code}, not {statuses}: {response.text[:200]}")
    try:
        error = response.json()["error"]
        missing = {"message", "type", "param", "code"} - set(error)
    except (ValueError, KeyError, TypeError):
        raise Failed(f"no error object: {response.text[:200]}") from None
    expect(not missing, f"the error object lacks {', '.join(sorted(missing))}")
    return error


def _whole(body: Mapping[str, Any]) -> Answer:
    expect(body.get("object") == "chat.completion", f"object is {body.get('object')}")
    choices = []
    for number, choice in enumerate(body["choices"]):
        expect(choice["index"] == number, "choices are not in order")
        message = choice["message"]
        expect(message["role"] == "assistant", "an answer is not by the assistant")
        choices.append(
            Choice(
                message.get("content"),
                message.get("reasoning_content") or "",
                message.get("tool_calls") or [],
                choice["finish_reason"],
                (choice.get("logprobs") or {}).get("content") or [],
            )
        )
    return Answer(choices, body.get("usage"), body["model"])


def read_events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream. Raises: Failed when it is not framed as server-sent events, or does not end in [DONE]."""
    kind = response.headers.get("content-type", "")
    expect(kind.startswith("text/event-stream"), f"the content type is {kind}")
    try:
        text = response.content.decode("utf-8")
    except UnicodeDecodeError:
        raise Failed("the stream is not UTF-8") from None
    blocks = [block for block in text.replace("\r\n", "\n").split("\n\n") if block.strip()]
    data = [line[5:].strip() for block in blocks for line in block.split("\n") if line.startswith("data:")]
    expect(bool(data) and data[-1] == "[DONE]", "the stream does not end with [DONE]")
    expect(data.count("[DONE]") == 1, "there is more than one [DONE]")
    return [json.loads(line) for line in data[:-1]]


def read_chat(response: httpx.Response, len_choices: int = 1) -> Answer:
    """The answer that a stream adds up to. Raises: Failed when it breaks a rule of chat streams."""
    events = read_events(response)
    expect(len({event["id"] for event in events}) == 1, "events have different ids")
    expect({event["object"] for event in events} == {"chat.completion.chunk"}, "events are no chat.completion.chunk")
    choices = [Choice() for _ in range(len_choices)]
    begun: set[int] = set()
    usage = None
    for number, event in enumerate(events):
        if not event["choices"]:
            expect(number == len(events) - 1, "an event without choices is not the last one")
            usage = event.get("usage")
        for part in event["choices"]:
            expect(choices[part["index"]].finish_reason is None, "a choice goes on after its finish_reason")
            _add(choices[part["index"]], part, is_first=part["index"] not in begun)
            begun.add(part["index"])
    expect(all(choice.finish_reason for choice in choices), "a choice has no finish_reason")
    return Answer(choices, usage, events[0]["model"])


def _add(choice: Choice, part: Mapping[str, Any], *, is_first: bool) -> None:
    delta = part["delta"]
    if is_first:
        expect(delta.get("role") == "assistant", "the first delta has no role")
        expect("content" in delta, "the first delta has no content")
    else:
        expect("role" not in delta, "a later delta has a role")
    if delta.get("content"):
        choice.content = choice.text + delta["content"]
    choice.reasoning += delta.get("reasoning_content") or ""
    for piece in delta.get("tool_calls") or ():
        _add_call(choice, piece)
    choice.logprobs += (part.get("logprobs") or {}).get("content") or []
    choice.finish_reason = part["finish_reason"]


def _add_call(choice: Choice, piece: Mapping[str, Any]) -> None:
    if piece["index"] == len(choice.calls):
        expect(bool(piece.get("id")), "the first delta of a call has no id")
        function = {"name": piece["function"]["name"], "arguments": piece["function"].get("arguments") or ""}
        choice.calls.append({"id": piece["id"], "type": piece.get("type"), "function": function})
    else:
        choice.calls[piece["index"]]["function"]["arguments"] += piece["function"].get("arguments") or ""
