"""Who may ask and how much; leaving, waiting and draining; what the log says."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import fastapi.applications
import httpx
import pytest
from tests.scripted_engine import ScriptedEngine
from tests.unit.serve.served import TOKENIZER, Served, error_of, served, wait_until

from tunesmith.errors import ConfigError
from tunesmith.infer.engine import EngineBusyError
from tunesmith.serve.openai.settings import is_loopback, settings_from_environment

KEY = "a-long-key-schluessel"
ROUTES = ("/v1/models", "/v1/models/tuned", "/health", "/metrics", "/openapi.json", "/nothing/there")
ANSWERING = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/score/evaluation")
BODY = {"model": "tuned", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(max_body_bytes=2**20) as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    with served(key=KEY) as running:
        yield running


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY.encode()}])
def test_no_route_answers_without_the_key(locked: Served, headers: dict[str, Any]) -> None:
    for route in ROUTES:
        error = error_of(httpx.get(locked.url + route, headers=headers), 401)
        assert error["code"] == "invalid_api_key"
    for route in ANSWERING:
        response = httpx.post(locked.url + route, headers=headers, json=BODY)
        error_of(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "api-key"])
def test_the_key_opens_in_each_header_that_clients_use(locked: Served, header: str) -> None:
    value = f"bearer {KEY}" if header == "Authorization" else KEY
    for route in ROUTES[:-1]:
        assert httpx.get(locked.url + route, headers={header: value.encode()}).status_code == 200, route


def test_keys_are_compared_in_constant_time(locked: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    import tunesmith.serve.openai.guard as guard

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    httpx.get(locked.url + "/health", headers={"Authorization": "Bearer wrong"})
    assert (b"wrong", KEY.encode()) in compared


def test_another_host_name_is_refused_without_a_key_only(server: Served, locked: Served) -> None:
    for host, status in (("evil.example", 403), ("evil.example:80", 403), ("localhost:9", 200), ("[::1]:9", 200)):
        assert server.client.get("/health", headers={"Host": host}).status_code == status, host
    assert locked.client.get("/health", headers={"Host": "proxy.example"}).status_code == 200


def test_pages_of_other_origins_are_refused_and_get_no_cors(server: Served) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        response = server.client.post("/v1/chat/completions", json=BODY, headers={"Origin": origin})
        assert error_of(response, 403)["code"] == "origin_refused"
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert server.client.get("/health", headers={"Origin": server.url}).status_code == 200


def test_an_origin_that_the_owner_names_may_call() -> None:
    with served(cors_origins=("https://chat.example",), key="k") as running:
        asked = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
        preflight = httpx.options(running.url + "/v1/chat/completions", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
        answer = running.client.post("/v1/chat/completions", json=BODY, headers={"Origin": "https://chat.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("size_mb", [2, 10])
def test_a_body_over_the_limit_is_refused_with_its_reason(server: Served, size_mb: int) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": "x" * (size_mb * 2**20)}]}
    assert error_of(server.client.post("/v1/chat/completions", json=body), 413)["code"] == "body_too_large"
    chunks = (b"x" * 2**16 for _ in range(size_mb * 16))
    headers = {"Content-Type": "application/json"}
    error_of(server.client.post("/v1/chat/completions", content=chunks, headers=headers), 413)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"model": 1e999}', b"1" * 5000, b"{}" * 2],
)
def test_a_body_that_is_no_request_is_a_400(server: Served, body: bytes) -> None:
    for route in ANSWERING:
        response = server.client.post(route, content=body, headers={"Content-Type": "application/json"})
        error_of(response, 400)


def test_half_characters_are_refused_wherever_they_stand(server: Served) -> None:
    for place in ('"messages":[{"role":"user","content":"\\ud800"}]', '"messages":[],"tools":[{"\\udfff":1}]'):
        content = '{"model":"tuned",' + place + "}"
        response = server.client.post(
            "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
        )
        assert "surrogate" in error_of(response, 400)["message"]
    emoji = json.dumps({**BODY, "messages": [{"role": "user", "content": "🎉"}]})
    assert "\\ud83c" in emoji
    headers = {"Content-Type": "application/json"}
    assert server.client.post("/v1/chat/completions", content=emoji, headers=headers).status_code == 200


def test_only_json_is_read(server: Served) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        response = server.client.post("/v1/chat/completions", content=json.dumps(BODY), headers={"Content-Type": kind})
        error_of(response, 415)


def test_unknown_routes_and_methods_are_told_in_the_same_shape(server: Served) -> None:
    assert error_of(server.client.get("/v1/nothing"), 404)["code"] == "not_found"
    response = server.client.get("/v1/chat/completions")
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"
    assert server.client.get("/docs").status_code == 404


def test_a_full_queue_is_a_429_that_says_when_to_come_again() -> None:
    class Full(ScriptedEngine):
        def submit(self, *arguments: Any, **named: Any) -> Any:
            raise EngineBusyError(8, 3)

    with served(engine=Full(TOKENIZER, ["x"])) as running:
        for stream in (False, True):
            response = running.chat(stream=stream)
            assert error_of(response, 429)["type"] == "rate_limit_error"
            assert response.headers["retry-after"] == "3"
        assert running.service.num_open == 0


def leave_after(running: Served, fields: dict[str, Any], after: Any) -> None:
    """Send a chat request over a bare socket, wait until `after` holds, and hang up."""
    parts = urlsplit(running.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps({**BODY, **fields}), headers)
    wait_until(after)
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream": True, "n": 3}, {"n": 2}])
def test_a_client_that_leaves_costs_at_most_one_more_token(fields: dict[str, Any]) -> None:
    with served(["one two three four five six seven"], hold=True) as running:
        engine, num = running.engine, fields.get("n", 1)
        engine.release(2 * num)
        leave_after(running, fields, lambda: engine.num_delivered == 2 * num)
        wait_until(lambda: len(engine.tickets) == num and all(ticket.cancelled.is_set() for ticket in engine.tickets))
        engine.release(10 * num)
        wait_until(lambda: running.service.num_open == 0)
        assert engine.num_delivered <= 3 * num
        assert "tunesmith_clients_left_total 1" in running.client.get("/metrics").text


def test_requests_wait_for_their_turn_and_leave_the_queue_when_their_client_leaves() -> None:
    with served(["one two"], hold=True, max_concurrent=1, max_waiting=1) as running:
        service, engine = running.service, running.engine

        def queue_up() -> None:
            leave_after(running, {}, lambda: service.num_open == 2)

        def first_runs() -> bool:
            return service.metrics.num_in_flight == 1 and len(engine.asked) == 1

        import threading

        first = threading.Thread(target=lambda: running.chat(max_tokens=2))
        first.start()
        wait_until(first_runs)
        queue_up()
        wait_until(lambda: service.num_open == 1)
        waiting = threading.Thread(target=lambda: httpx.post(running.url + ANSWERING[0], json=BODY, timeout=20))
        waiting.start()
        wait_until(lambda: service.num_open == 2)
        response = running.chat()
        assert error_of(response, 429)["code"] == "engine_busy"
        assert int(response.headers["retry-after"]) > 0
        assert running.client.get("/v1/models").status_code == 200
        assert len(engine.asked) == 1
        engine.release(20)
        first.join(10)
        waiting.join(10)
        assert len(engine.asked) == 2
        assert service.num_open == 0


def test_while_draining_what_runs_is_finished_and_new_requests_get_503() -> None:
    with served(["one two three"], hold=True) as running:
        answers: list[httpx.Response] = []
        import threading

        asking = threading.Thread(target=lambda: answers.append(running.chat(max_tokens=3)))
        asking.start()
        wait_until(lambda: len(running.engine.asked) == 1)
        running.service.is_draining = True
        response = httpx.post(running.url + ANSWERING[0], json=BODY)
        assert error_of(response, 503)["code"] == "shutting_down"
        assert "retry-after" in response.headers
        health = httpx.get(running.url + "/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        running.engine.release(10)
        asking.join(10)
        assert answers[0].status_code == 200
        assert answers[0].json()["choices"][0]["finish_reason"] == "length"


SECRET = "PASSWORD-hunter2"


def test_the_log_never_holds_what_was_asked_or_answered(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(ScriptedEngine):
        def submit(self, *arguments: Any, **named: Any) -> Any:
            raise RuntimeError(f"could not render {SECRET}")

    messages = [{"role": "user", "content": SECRET}]
    with caplog.at_level(logging.DEBUG):
        with served([f"The answer is {SECRET}"]) as running:
            for fields in ({}, {"stream": True}, {"logprobs": True}, {"foo": SECRET}, {"temperature": SECRET}):
                running.chat(messages=messages, **fields)
            running.complete(prompt=SECRET)
            running.client.get("/v1/models?secret=" + SECRET)
        with served(engine=Failing(TOKENIZER, ["x"])) as running:
            error_of(running.chat(messages=messages), 500)
    assert "POST /v1/chat/completions 200" in caplog.text
    assert "out=" in caplog.text
    assert "failed with RuntimeError" in caplog.text
    own = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert SECRET not in own
    assert not [record for record in caplog.records if record.exc_info and record.name.startswith("tunesmith")]


def test_paths_cannot_write_lines_of_their_own_into_the_log(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tunesmith.serve.access"):
        server.client.get("/x%0A2026-01-01 GET /admin 200")
    assert "\n2026" not in "\n".join(record.getMessage() for record in caplog.records)


def test_another_address_needs_a_key() -> None:
    with pytest.raises(ConfigError, match="API_KEY"):
        settings_from_environment({"API_HOST": "0.0.0.0"})
    assert settings_from_environment({"API_HOST": "0.0.0.0", "API_KEY": "k"}).host == "0.0.0.0"
    assert settings_from_environment({}).host == "127.0.0.1"


def test_the_environment_of_the_public_tool_holds() -> None:
    environment = {
        "API_PORT": "9001", "API_KEY": "k", "API_MODEL_NAME": "m", "FASTAPI_ROOT_PATH": "/llm/", "MAX_CONCURRENT": "3",
        "API_VERBOSE": "1",
    }  # fmt: skip
    settings = settings_from_environment(environment)
    assert (settings.port, settings.key, settings.model_name) == (9001, "k", "m")
    assert (settings.root_path, settings.max_concurrent) == ("/llm", 3)
    assert "not logged" in settings.notes[0]


@pytest.mark.parametrize(
    "environment",
    [
        {"API_PORT": "99999"},
        {"API_PORT": "http"},
        {"MAX_CONCURRENT": "0"},
        {"API_CORS_ORIGINS": "*"},
        {"API_KEY": "schlüssel"},
    ],
)
def test_a_wrong_variable_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        settings_from_environment(environment)


def test_which_addresses_are_this_machines_own() -> None:
    own = ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "a.localhost")
    others = ("0.0.0.0", "::", "10.0.0.1", "evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example")
    assert [is_loopback(host) for host in (*own, *others)] == [True] * len(own) + [False] * len(others)


def test_nothing_is_told_to_an_opentelemetry_server_that_the_environment_names(monkeypatch) -> None:
    pytest.importorskip("fastapi.telemetry")  # newer FastAPI has it
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    seen = []
    native = fastapi.applications.NativeTelemetry
    monkeypatch.setattr(fastapi.applications, "NativeTelemetry", lambda config: seen.append(config) or native(config))
    with served() as server:
        assert server.chat().status_code == 200
    assert [[name for name, wanted in config.items() if wanted is True] for config in seen] == [["operation_spans"]]
