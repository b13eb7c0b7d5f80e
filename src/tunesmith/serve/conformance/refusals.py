"""What is wrong is refused before the first token, in OpenAI's shape, whatever `stream` says."""

from __future__ import annotations

from typing import Any

from tunesmith.serve.conformance.suite import Checks
from tunesmith.serve.conformance.target import Mode, Skipped, Target, error_of, expect

CHECKS = Checks()


def _refused(target: Target, mode: Mode, param: str | None, messages: Any = "Hi", **fields: Any) -> None:
    error = error_of(target.try_chat(mode, messages, **fields), 400)
    if param is not None:
        expect(str(error["param"]).startswith(param), f"param is {error['param']}, not {param}")


@CHECKS.add("an unknown model is a 404")
def _model(target: Target, mode: Mode) -> None:
    error = error_of(target.try_chat(mode, "Hi", model="no-such-model"), 404)
    expect(error["code"] == "model_not_found", f"code is {error['code']}")


@CHECKS.add("an unknown field is refused")
def _unknown(target: Target, mode: Mode) -> None:
    _refused(target, mode, "no_such_field", no_such_field=1)


@CHECKS.add("what cannot be honoured is refused")
def _unsupported(target: Target, mode: Mode) -> None:
    _refused(target, mode, "audio", audio={"voice": "alloy", "format": "wav"})
    _refused(target, mode, "modalities", modalities=["text", "audio"])
    _refused(target, mode, "web_search_options", web_search_options={})


@CHECKS.add("pictures are refused, files untouched")
def _pictures(target: Target, mode: Mode) -> None:
    for url in ("file:///etc/passwd", "http://127.0.0.1:1/x.png", "data:image/png;base64,AAAA"):
        content = [{"type": "image_url", "image_url": {"url": url}}]
        _refused(target, mode, "messages", [{"role": "user", "content": content}])


@CHECKS.add("wrong types and bounds")
def _types(target: Target, mode: Mode) -> None:
    for field, value in (
        ("temperature", "hot"),
        ("n", 0),
        ("max_tokens", -1),
        ("top_p", 2),
        ("stop", 5),
        ("logprobs", "x"),
    ):
        _refused(target, mode, field, **{field: value})
    for messages in (
        [],
        "",
        [{"role": "user"}],
        [{"role": "wizard", "content": "x"}],
        [{"role": "user", "content": 5}],
    ):
        error_of(target.send("POST", "chat/completions", {"model": target.model, "messages": messages}), 400)


@CHECKS.add("a prompt over the context is refused")
def _too_long(target: Target, mode: Mode) -> None:
    response = target.try_chat(mode, "word " * 1_000_000)
    error = error_of(response, 400, 413)
    expect(response.status_code == 413 or error["code"] == "context_length_exceeded", f"code is {error['code']}")


@CHECKS.add("a body of 10 MB is told so", ["plain"])
def _big(target: Target, mode: Mode) -> None:
    error_of(target.try_chat("plain", "x" * 10 * 2**20), 400, 413)


@CHECKS.add("a body that is no JSON", ["plain"])
def _no_json(target: Target, mode: Mode) -> None:
    for body in (b"{", b"", b"[]", b"\xff"):
        error_of(target.send("POST", "chat/completions", body), 400)


@CHECKS.add("unknown routes and methods", ["plain"])
def _routes(target: Target, mode: Mode) -> None:
    error_of(target.send("GET", "no-such-route"), 404)
    error_of(target.send("DELETE", "chat/completions"), 405)


@CHECKS.add("a wrong key is a 401", ["plain"])
def _key(target: Target, mode: Mode) -> None:
    if not target.key:
        raise Skipped("the server was given without a key")
    other = Target(target.url, "wrong-" + target.key[:4], target.model)
    for path in ("models", "/health", "no-such-route"):
        error_of(other.send("GET", path), 401)
    error_of(other.try_chat("plain", "Hi"), 401)


@CHECKS.add("pages of other origins are refused", ["plain"])
def _origin(target: Target, mode: Mode) -> None:
    response = target.send("GET", "models", headers={"Origin": "https://evil.example"})
    error_of(response, 403)
    expect("access-control-allow-origin" not in response.headers, "the origin is allowed")
