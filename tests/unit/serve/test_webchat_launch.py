"""Who can reach the web chat's page, and that it tells nobody of itself."""

from __future__ import annotations

import socket

import pytest

from tunesmith.errors import ConfigError
from tunesmith.serve.webchat.launch import OwnOriginOnly, Place, check_password, check_port, place_from
from tunesmith.serve.webchat.words import WORDS, language_of

SECRET = "long enough"


def test_the_page_is_for_this_machine_unless_told_otherwise() -> None:
    assert place_from({}) == Place("127.0.0.1", None, "", False)
    assert place_from({"GRADIO_SERVER_PORT": "8080", "GRADIO_SERVER_NAME": "localhost"}) == Place("localhost", 8080)


@pytest.mark.parametrize(
    "environ", [{"GRADIO_SERVER_NAME": "0.0.0.0"}, {"GRADIO_SERVER_NAME": "10.0.0.5"}, {"GRADIO_IPV6": "1"}]
)
def test_another_address_needs_a_password(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="needs a password"):
        place_from(environ)
    assert place_from({**environ, "TUNESMITH_PASSWORD": SECRET}).password == SECRET


def test_sharing_needs_a_password() -> None:
    with pytest.raises(ConfigError, match="needs a password"):
        place_from({"GRADIO_SHARE": "True"})
    assert place_from({"GRADIO_SHARE": "1", "TUNESMITH_PASSWORD": SECRET}).share


def test_a_short_password_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        place_from({"TUNESMITH_PASSWORD": "1234567"})


@pytest.mark.parametrize("port", ["0", "70000", "http", "-1"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(ConfigError, match="is no port"):
        place_from({"GRADIO_SERVER_PORT": port})


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = Place(port=other.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot be used"):
            check_port(taken)
    check_port(taken)


def test_any_user_with_the_password_may_enter() -> None:
    enters = check_password("密码 of 8 letters")
    assert enters("anyone", "密码 of 8 letters")
    assert not enters("anyone", "密码 of 8 letterS")
    assert not enters("anyone", "")


def test_every_answer_forbids_other_origins() -> None:
    import asyncio

    async def app(scope: object, receive: object, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(OwnOriginOnly(app)({"type": "http"}, None, send))
    headers = dict(sent[0]["headers"])
    assert headers[b"a"] == b"b"
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert b"http" not in headers[b"content-security-policy"], "no other host is allowed"
    assert len(sent) == 2


@pytest.mark.parametrize(
    ("accepted", "lang"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-US,en", "en"), ("de-DE,zh;q=0.5", "zh"), ("fr", "en"), (",", "en")],
)
def test_the_page_speaks_the_browsers_language(accepted: str, lang: str) -> None:
    assert language_of(accepted, "en") == lang


def test_every_text_is_there_in_both_languages() -> None:
    placeholders = [[set(_fields(text)) for text in pair] for pair in WORDS.values()]
    assert all(en == zh for en, zh in placeholders)
    assert all(pair[0] and pair[1] for pair in WORDS.values())


def _fields(text: str) -> list[str]:
    import re

    return re.findall(r"{(path|count|rate)}", text)


@pytest.mark.slow
def test_without_the_password_the_page_and_its_events_are_closed() -> None:
    import httpx

    from tunesmith.serve.webchat.launch import launch, make_quiet

    make_quiet()
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as demo:
        gr.Textbox("private")
    address = launch(demo, Place(password=SECRET), {})
    try:
        with httpx.Client(base_url=address, trust_env=False) as client:
            assert "private" not in client.get("/").text
            assert client.get("/config").status_code == 401
            assert client.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0}).status_code == 401
            wrong = client.post("/login", data={"username": "a", "password": "wrong password"})
            assert wrong.status_code == 400
            right = client.post("/login", data={"username": "a", "password": SECRET})
            assert right.status_code == 200
            assert "private" in client.get("/").text
    finally:
        demo.close(verbose=False)
