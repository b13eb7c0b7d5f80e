"""HTTP with the server of another engine: one request each connection, answers as server-sent events, plain sockets.

The standard library does it, so that no package is needed. A stream is ended by shutting its connection, which is what
tells vLLM and SGLang to stop computing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tunesmith.errors import ModelError
from tunesmith.infer.server_process import Address

CONNECT_TIMEOUT_S = 10.0
_END = "[DONE]"


class Call:
    """One request to the server, which may be ended from another thread."""

    def __init__(self, address: Address) -> None:
        parts = urlsplit(address.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=CONNECT_TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        self._prefix = parts.path.rstrip("/")
        self._socket: socket.socket | None = None

    def get(self, path: str) -> Any:
        """The JSON at a path; None for an empty answer. Raises: ModelError as `_send`; OSError when nobody is there."""
        with contextlib.closing(self._connection):
            data = self._send("GET", path, None).read()
        return json.loads(data) if data.strip() else None

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON that answers a JSON body. Raises: ModelError, OSError."""
        with contextlib.closing(self._connection):
            return json.loads(self._send("POST", path, body).read())

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The objects of an event stream. Raises: ModelError, also for an error within the stream; OSError."""
        with contextlib.closing(self._connection):
            response = self._send("POST", path, body)
            for line in iter(response.readline, b""):
                text = line.decode("utf-8").strip()
                if not text.startswith("data:"):
                    continue
                data = text.removeprefix("data:").strip()
                if data == _END:
                    return
                event = json.loads(data)
                if "error" in event:
                    raise _refused(200, event)
                yield event

    def end(self) -> None:
        """Shut the connection; whoever reads from it gets an end or an OSError."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
        """Raises: ModelError when the server answers with an error."""
        self._connection.connect()
        self._socket = self._connection.sock
        self._socket.settimeout(None)  # the first token may have to wait for a place in the batch
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, **({"Content-Type": "application/json"} if data else {})}
        self._connection.request(method, self._prefix + path, data, headers)
        response = self._connection.getresponse()
        if response.status >= 400:
            raise _refused(response.status, _json(response.read()))
        return response


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")


def _refused(status: int, answer: Any) -> ModelError:
    """The error of a server in its own words, which stand at different places of the answer."""
    found = answer
    for key in ("error", "message"):
        found = found.get(key, found) if isinstance(found, dict) else found
    return ModelError(f"the inference server refused a request (HTTP {status})", why=str(found)[:2000])
