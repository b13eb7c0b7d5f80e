"""A server in a thread of the test process, on a real socket, over an engine that says what the test wants."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from tests.scripted_engine import ScriptedEngine
from tests.tiny import tiny_tokenizer

from tunesmith.infer.engine import SamplingParams
from tunesmith.render.load import make_renderer
from tunesmith.serve.openai.app import make_app
from tunesmith.serve.openai.server import Server, address_of, bind
from tunesmith.serve.openai.service import Service
from tunesmith.serve.openai.settings import Settings

TOKENIZER = tiny_tokenizer()
WAIT_S = 10


@dataclass
class Served:
    """A running server: its address, its engine, and a client that holds the key."""

    url: str
    engine: Any
    service: Service
    client: httpx.Client

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": "tuned", "messages": [{"role": "user", "content": "Hello!"}], **fields}
        return self.client.post("/v1/chat/completions", json=body)

    def complete(self, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/completions", json={"model": "tuned", "prompt": "Hello", **fields})

    def chat_events(self, **fields: Any) -> list[dict[str, Any]]:
        return events_of(self.chat(stream=True, **fields))


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of all events; the stream must end with exactly one [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.content.decode("utf-8").split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of a response, whose shape is checked."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def wait_until(holds: Any, seconds: float = WAIT_S) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def make_service(engine: Any, settings: Settings, template: str | None = "qwen3", max_new_tokens: int = 256) -> Service:
    """A service over a tiny tokenizer."""
    renderer = make_renderer(TOKENIZER, template)
    defaults = SamplingParams(max_new_tokens=max_new_tokens, stop_ids=renderer.stop_ids)
    return Service(engine, renderer, defaults, settings)


@contextmanager
def served(
    answers: Sequence[str] = ("Hi there.",),
    *,
    engine: Any = None,
    hold: bool = False,
    models: Sequence[str] = ("tuned",),
    template: str | None = "qwen3",
    **settings: Any,
) -> Iterator[Served]:
    """Serve `answers` until the block ends."""
    engine = engine or ScriptedEngine(TOKENIZER, answers, models=models, hold=hold)
    chosen = Settings(port=0, **settings)
    bound = bind(chosen)
    started: list[Server] = []

    def run(service: Service) -> None:
        config = uvicorn.Config(
            make_app(service), log_config=None, access_log=False, lifespan="off", server_header=False
        )
        started.append(Server(config, service))
        asyncio.run(started[0].serve(sockets=[bound]))

    service = make_service(engine, chosen, template)
    thread = threading.Thread(target=run, args=(service,), daemon=True)
    thread.start()
    wait_until(lambda: started and started[0].started)
    url = address_of(bound, chosen)
    headers = {"Authorization": f"Bearer {chosen.key}"} if chosen.key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=WAIT_S) as client:
        yield Served(url, engine, service, client)
    if hold:
        engine.close()
        engine.release(1000)
    started[0].should_exit = started[0].force_exit = True
    thread.join(WAIT_S)
    service.close()
