"""Rewards from an HTTP server, against one on this machine that ends with the test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from reward_samples import sample

from tunesmith.errors import ConfigError, TrainingError
from tunesmith.train.rewards import endpoint
from tunesmith.train.rewards.endpoint import EndpointReward

SAMPLES = [sample("one"), sample("three")]


class Server(ThreadingHTTPServer):
    """Answers with what `replies` holds, one after another; the last one stays."""

    daemon_threads = True
    address_family = 2

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Callable[[Handler, dict], None]] = []
        self.requests: list[tuple[str, dict]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/score?k=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        replies = self.server.replies
        (replies.pop(0) if len(replies) > 1 else replies[0])(self, body)

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {}))
        self.send_error(404)

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def ask(server: Server, *replies: Callable[[Handler, dict], None], timeout_s: float = 5.0, num_retries: int = 0):
    server.replies = list(replies)
    return EndpointReward(server.url, timeout_s, (0.01,) * num_retries).score(SAMPLES)


def lengths(handler: Handler, body: dict) -> None:
    handler.reply(json.dumps({"scores": [len(text) for text in body["messages"]]}).encode())


def says(body: object, status: int = 200, **headers: str) -> Callable[[Handler, dict], None]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda handler, _: handler.reply(raw, status, **headers)


def test_the_full_texts_are_sent_and_the_scores_come_back_in_order(server: Server) -> None:
    assert ask(server, lengths) == [float(len(s.full_text)) for s in SAMPLES]
    assert server.requests == [("/score?k=1", {"model": "model", "messages": [s.full_text for s in SAMPLES]})]


def test_a_busy_server_is_asked_again(server: Server) -> None:
    scores = ask(server, says("busy", 503), says("slow down", 429), says({"scores": [1, 2]}), num_retries=2)
    assert scores == [1.0, 2.0]
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_given_up(server: Server) -> None:
    with pytest.raises(TrainingError, match=r"503.*please wait.*\(3 tries\)"):
        ask(server, says("please wait", 503), num_retries=2)
    assert len(server.requests) == 3


def test_a_refusal_is_reported_at_once(server: Server) -> None:
    with pytest.raises(TrainingError, match=r"404 Not Found"):
        ask(server, says(b"", 404), num_retries=3)
    assert len(server.requests) == 1


def test_a_server_that_does_not_answer_in_time_is_asked_again_and_given_up(server: Server) -> None:
    with pytest.raises(TrainingError, match=r"no answer within 0.2 s \(2 tries\)"):
        ask(server, lambda handler, _: time.sleep(1), timeout_s=0.2, num_retries=1)
    assert len(server.requests) == 2


def test_a_server_that_is_not_there_is_named() -> None:
    running = Server()
    url = running.url
    running.server_close()
    with pytest.raises(TrainingError, match=r"127.0.0.1.*gave no scores: ConnectionRefusedError") as caught:
        EndpointReward(url, 1.0, ()).score(SAMPLES)
    assert caught.value.exit_code == 2


UNUSABLE: dict[str, tuple[object, str]] = {
    "no JSON": (b"<html>hello</html>", "its answer is no JSON: <html>hello"),
    "no bytes": (b"", "its answer is no JSON"),
    "deep": (b"[" * 100_000, "its answer is no JSON"),
    "no scores": ({"score": [1, 2]}, 'no "scores"'),
    "a list": ([1, 2], 'no "scores"'),
    "too few": ({"scores": [1]}, "returned 1 numbers for 2 completions"),
    "too many": ({"scores": [1, 2, 3]}, "returned 3 numbers for 2 completions"),
    "one number": ({"scores": 1.0}, "in place of a list of numbers"),
    "not a number": (b'{"scores": [1, NaN]}', "nan, which is no finite number"),
    "infinite": (b'{"scores": [1, -Infinity]}', "-inf, which is no finite number"),
    "text": ({"scores": [1, "2"]}, "'2', which is no finite number"),
    "null": ({"scores": [1, None]}, "None, which is no finite number"),
    "nested": ({"scores": [[1], [2]]}, "[1], which is no finite number"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_answer_that_holds_no_scores_is_one_clear_message(server: Server, case: str) -> None:
    body, message = UNUSABLE[case]
    with pytest.raises(TrainingError) as caught:
        ask(server, says(body), num_retries=3)
    assert message in caught.value.what
    assert f"127.0.0.1:{server.server_port}/score" in caught.value.what
    assert len(server.requests) == 1


def test_an_endless_answer_is_not_read_to_its_end(server: Server, monkeypatch) -> None:
    monkeypatch.setattr(endpoint, "MAX_ANSWER_BYTES", 1 << 20)
    with pytest.raises(TrainingError, match="longer than 1 MiB"):
        ask(server, says(b" " * (3 << 20)))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_texts_go_nowhere_else(server: Server, status: int) -> None:
    with pytest.raises(TrainingError, match=str(status)):
        ask(server, says(b"", status, Location="/elsewhere"))
    assert [path for path, _ in server.requests] == ["/score?k=1"]


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(server: Server, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(server, lengths)[0] > 0


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/x", "localhost:8000", "saves/reward", "http://", "http://[::1", "http://a:b/"],
)
def test_only_http_and_https_addresses_are_asked(url: str) -> None:
    with pytest.raises(ConfigError):
        EndpointReward(url, 1.0)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        EndpointReward("http://me:hunter2@host/score", 1.0)
    assert "hunter2" not in caught.value.render()


def test_no_samples_ask_nothing() -> None:
    assert EndpointReward("http://127.0.0.1:1/", 1.0).score([]) == []
