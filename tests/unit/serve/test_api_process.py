"""The real thing: a process, a socket, a tiny model; and the OpenAPI document against generated requests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.tiny import tiny_model
from tests.unit.serve.served import error_of, served

from tunesmith.serve.openai.server import bind
from tunesmith.serve.openai.settings import Settings

READY = re.compile(r"^serving (.*) on (http://\S+)/v1$")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("api") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tunesmith", "api", *arguments]


@contextmanager
def running(model: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    environment = {**os.environ, "API_PORT": "0", **variables}
    arguments = command("--model_name_or_path", str(model), "--template", "qwen3")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment, text=True) as server:
        try:
            assert server.stdout is not None
            ready = next(found for line in server.stdout if (found := READY.match(line.strip())))
            yield server, ready[2]
        finally:
            server.kill()


@pytest.mark.slow
def test_a_process_serves_then_drains_what_runs_and_ends_with_0(model: Path) -> None:
    with running(model, API_KEY="k", API_MODEL_NAME="gpt-3.5-turbo") as (server, url):
        headers = {"Authorization": "Bearer k"}
        body = {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 300}
        bias = {"logit_bias": {"1": -100, "2": -100, "0": -100}}
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json={**body, **bias, "stream": True}, headers=headers, timeout=60
        ) as response:
            parts = response.iter_text()
            assert "assistant" in next(parts)
            server.send_signal(signal.SIGTERM)
            rest = "".join(parts)
        assert rest.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"length"' in rest
        assert server.wait(20) == 0


@pytest.mark.slow
def test_the_selfcheck_passes_on_a_tiny_model(model: Path, tmp_path: Path) -> None:
    report = tmp_path / "checks.json"
    arguments = command(
        "--model_name_or_path", str(model), "--template", "qwen3", "--selfcheck", "--report", str(report)
    )
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout
    verdicts = [entry["verdict"] for entry in json.loads(report.read_text())]
    assert len(verdicts) > 80
    assert set(verdicts) == {"PASS"}


def test_an_open_address_without_a_key_is_a_message_not_a_server(model: Path) -> None:
    environment = {**os.environ, "API_HOST": "0.0.0.0", "API_KEY": ""}
    arguments = command("--model_name_or_path", str(model))
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_generated_requests_valid_and_not_never_give_a_5xx() -> None:
    pytest.importorskip("schemathesis")
    with served(["ok"]) as server:
        arguments = ["run", f"{server.url}/openapi.json", "--max-examples", "40", "--mode", "all", "--checks"]
        program = str(Path(sys.executable).parent / "schemathesis")
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        found = subprocess.run(
            [program, *arguments, checks, "--phases", "examples,coverage,fuzzing"],
            capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stdout[-6000:]


FIELDS = ("model", "messages", "tools", "n", "stop", "seed", "stream", "logprobs", "logit_bias", "response_format",
          "temperature", "max_tokens", "tool_choice", "metadata", "top_p", "stream_options", "user")  # fmt: skip
WRONG = (None, True, -1, 10**400, 1.5, "x", "\x00", [], [[]], [None], {}, {"type": 1}, {"a": {"b": []}})


def test_wrong_types_in_every_field_are_told_never_a_5xx() -> None:
    num_tried = 0
    with served(["ok"]) as server:
        for field in FIELDS:
            for value in WRONG:
                response = server.chat(**{field: value})
                num_tried += 1
                assert response.status_code in (200, 400, 404), (field, value, response.text)
                if response.status_code != 200:
                    error_of(response, response.status_code)
    assert num_tried == len(FIELDS) * len(WRONG)


def test_bodies_cut_anywhere_are_told() -> None:
    body = json.dumps(
        {"model": "tuned", "messages": [{"role": "user", "content": "你好"}]}, ensure_ascii=False
    ).encode()
    with served(["ok"]) as server:
        for end in range(len(body)):
            headers = {"Content-Type": "application/json"}
            error_of(server.client.post("/v1/chat/completions", content=body[:end], headers=headers), 400)


def test_no_piece_of_a_stream_waits_for_the_client_to_acknowledge_the_one_before() -> None:
    """asyncio switches Nagle's delay off on sockets that say they are TCP; a plain `socket.socket()` does not."""
    bound, found = bind(Settings(port=0)), []

    class Looks(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connection = transport.get_extra_info("socket")
            found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def accept_one() -> None:
        server = await asyncio.get_running_loop().create_server(Looks, sock=bound)
        _, writer = await asyncio.open_connection(*bound.getsockname())
        while not found:
            await asyncio.sleep(0.01)
        writer.close()
        server.close()

    asyncio.run(asyncio.wait_for(accept_one(), 10))
    assert found[0] != 0
