"""In front of every route: who may ask, how much, and while the server is up. Plain ASGI.

Order: the host name (a page on the internet can make a browser call 127.0.0.1 under its own name, DNS rebinding), the
origin, the key, then the body, read whole up to a limit. A body that is too long is read on for a while and thrown
away, since many clients look at the answer only when they have sent everything.
Around it: one line of access log, the metrics, and a last catch that keeps messages of exceptions out of the log.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.serve.openai.answering import RECORD
from tunesmith.serve.openai.errors import ApiError, internal
from tunesmith.serve.openai.log import Record, log_access, log_failure
from tunesmith.serve.openai.metrics import Metrics
from tunesmith.serve.openai.settings import Settings, is_loopback

LOG = logging.getLogger(__name__)
LEFT_STATUS = 499
"""Logged when the client has left before the answer was whole; never sent."""
THROWN_AWAY = 8
"""A body is read on, unused, up to this many times the limit."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
OPEN_WHILE_DRAINING = ("/health", "/metrics")


class Guard:
    """Wraps the routes.

    Args:
        routes: paths that metrics name; every other path counts as "other".
        is_draining: whether the server is on its way out.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        is_draining: Callable[[], bool],
        routes: frozenset[str],
    ) -> None:
        self._app, self._settings, self._metrics, self._routes = app, settings, metrics, routes
        self._is_draining = is_draining
        self._key = settings.key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection (ASGI)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        record = scope[RECORD] = Record()
        answer = _Answer(send)
        began = time.monotonic()
        try:
            await self._handle(scope, receive, answer)
        except Exception as error:
            log_failure(LOG, error)
            if answer.status is None:
                await internal().response()(scope, receive, answer)
        finally:
            seconds = time.monotonic() - began
            status = LEFT_STATUS if record.client_left or answer.status is None else answer.status
            record.client_left = status == LEFT_STATUS
            path = scope["path"]
            log_access(scope["method"], path, status, seconds, record)
            self._metrics.observe(path if path in self._routes else "other", status, seconds, record)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            body = await self._read_body(scope, receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _check(self, scope: Scope) -> None:
        headers = _headers(scope)
        if self._settings.is_local and not self._key:
            _check_host(headers.get("host", ""))
        self._check_origin(headers, scope)
        if self._key:
            self._check_key(headers)
        if self._is_draining() and scope["path"] not in OPEN_WHILE_DRAINING:
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "10"})

    def _check_origin(self, headers: Mapping[str, str], scope: Scope) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self._settings.cors_origins:
            return
        parts = urlsplit(origin)
        if (parts.scheme, parts.netloc) != (scope.get("scheme", "http"), headers.get("host")):
            raise ApiError(
                403,
                "pages of other origins may not call this server; its owner can allow one in API_CORS_ORIGINS",
                code="origin_refused",
            )

    def _check_key(self, headers: Mapping[str, str]) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        offered = [headers.get("x-api-key", ""), headers.get("api-key", "")]
        if scheme.lower() == "bearer":
            offered.append(token.strip())
        matches = [hmac.compare_digest(key.encode("latin-1"), self._key) for key in offered]
        if not any(matches):
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when the client left before it was there. Raises: ApiError 400, 413, 415."""
        headers = _headers(scope)
        limit = self._settings.max_body_bytes
        promised = headers.get("content-length", "")
        if promised.isdigit() and int(promised) > limit * THROWN_AWAY:
            raise _too_long(limit)
        body = await _read(receive, limit)
        if body is None:
            return None
        if body and scope["method"] == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
                raise ApiError(415, "the body must be JSON, with 'Content-Type: application/json'", code="invalid_json")
            _check_unicode(body)
        return body


class _Answer:
    """Passes messages on to the client and remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _check_host(host: str) -> None:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if not is_loopback(name):
        raise ApiError(
            403,
            "this server answers as localhost only; to reach it under another name, set API_KEY",
            code="host_refused",
        )


async def _read(receive: Receive, limit: int) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while size <= limit * THROWN_AWAY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        if not message.get("more_body", False):
            break
    if size > limit:
        raise _too_long(limit)
    return b"".join(parts)


def _too_long(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is longer than {limit // 2**20} MB (API_MAX_BODY_MB)",
        code="body_too_large",
        headers={"Connection": "close"},
    )


def _check_unicode(body: bytes) -> None:
    """Refuse half characters written as escapes: they are JSON, but no text. Raises: ApiError 400."""
    if not _SURROGATE.search(body):
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the body holds half a character (a lone surrogate)", code="invalid_json") from None
    except (ValueError, RecursionError):
        return  # no JSON, which the route will say


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    """A `receive` that gives the body once, then what the connection says."""
    given = False

    async def next_message() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
