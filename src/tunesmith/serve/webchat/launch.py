"""Start the page: on this machine only, unless a password is set; nothing fetched from or told to anyone else.

The environment variables of gradio and of the public tool hold: GRADIO_SERVER_NAME, GRADIO_SERVER_PORT,
GRADIO_ROOT_PATH, GRADIO_SHARE, GRADIO_IPV6. TUNESMITH_PASSWORD asks for a password (any user name).
"""

from __future__ import annotations

import hmac
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
DEFAULT_PORT = 7860
_YES = ("1", "true", "yes", "y", "on")
MIN_PASSWORD_CHARACTERS = 8


@dataclass(frozen=True)
class Place:
    """Where the page is served. `password` empty: none; `port` None: the first free one from 7860."""

    host: str = "127.0.0.1"
    port: int | None = None
    password: str = ""
    share: bool = False


def place_from(environ: Mapping[str, str]) -> Place:
    """Read the place from environment variables.

    Raises: ConfigError for a port that is none, and for an address that others can reach without a password.
    """
    is_on = {name: environ.get(name, "").strip().lower() in _YES for name in ("GRADIO_SHARE", "GRADIO_IPV6")}
    host = environ.get("GRADIO_SERVER_NAME", "").strip() or ("[::]" if is_on["GRADIO_IPV6"] else LOOPBACK[0])
    place = Place(host, _port(environ.get("GRADIO_SERVER_PORT", "")), environ.get("TUNESMITH_PASSWORD", ""))
    if place.password and len(place.password) < MIN_PASSWORD_CHARACTERS:
        raise ConfigError(
            f"the password has {len(place.password)} characters, at least {MIN_PASSWORD_CHARACTERS} are needed",
            where="TUNESMITH_PASSWORD",
            fix="Choose a longer one.",
        )
    if not place.password and (host not in LOOPBACK or is_on["GRADIO_SHARE"]):
        raise ConfigError(
            "a page that others can reach needs a password",
            where="GRADIO_SHARE" if is_on["GRADIO_SHARE"] else f"GRADIO_SERVER_NAME={host}",
            why="anyone who finds the address could use the model and read what it was tuned on",
            fix="Set TUNESMITH_PASSWORD, or leave the address out and reach the page through "
            f"`ssh -L {DEFAULT_PORT}:127.0.0.1:{DEFAULT_PORT} this-machine`.",
        )
    return Place(place.host, place.port, place.password, is_on["GRADIO_SHARE"])


def _port(text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isdigit() or not 0 < int(text) < 65536:
        raise ConfigError(f"'{text}' is no port", where="GRADIO_SERVER_PORT", fix="Give a number from 1 to 65535.")
    return int(text)


def check_port(place: Place) -> None:
    """Before a model is loaded: Raises ConfigError when another program has the port that was asked for."""
    if place.port is None:
        return
    host = place.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, place.port))
        except OSError as error:
            raise _taken(place, error) from error


def _taken(place: Place, error: OSError) -> ConfigError:
    return ConfigError(
        f"port {place.port or DEFAULT_PORT} of {place.host} cannot be used",
        why=error.strerror or str(error),
        fix="Set GRADIO_SERVER_PORT to another port; without it the first free one is taken.",
    )


def check_password(password: str) -> Callable[[str, str], bool]:
    """A login test that takes equally long for every wrong password; the user name does not matter."""
    return lambda user, given: hmac.compare_digest(given.encode(), password.encode())


def make_quiet() -> None:
    """No analytics, no version check, no server-side rendering; before gradio is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_RUN_HISTORY"] = "False"


class OwnOriginOnly:
    """ASGI middleware: the browser may load nothing from other hosts, whatever a model writes (images, styles)."""

    POLICY = (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
        "form-action 'self'; frame-ancestors 'self'"
    )

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Add the policy to every answer."""
        headers = [
            (b"content-security-policy", self.POLICY.encode()),
            (b"referrer-policy", b"no-referrer"),
            (b"x-content-type-options", b"nosniff"),
        ]

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def launch(demo: Any, place: Place, look: Mapping[str, Any]) -> str:
    """Serve the page in the background; returns its address. Raises: ConfigError when the port is taken."""
    from fastapi.middleware import Middleware

    try:
        _, local, _ = demo.launch(
            server_name=place.host,
            server_port=place.port,
            share=place.share,
            auth=check_password(place.password) if place.password else None,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            inbrowser=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            max_file_size="5mb",
            max_threads=100,
            app_kwargs={"middleware": [Middleware(OwnOriginOnly)], "telemetry": {"auto_configure": False}},
            **look,
        )
    except OSError as error:
        raise _taken(place, error) from error
    return str(local)


def wait_for_signal() -> None:
    """Return at Ctrl-C or SIGTERM."""
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    with suppress(KeyboardInterrupt):
        while not done.wait(0.5):
            pass
