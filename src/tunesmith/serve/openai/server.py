"""Runs the application with uvicorn, on a socket of its own, until a signal ends it.

The socket is bound before the model is loaded, so that a port in use is said at once. The first SIGTERM or Ctrl-C
drains: what runs is finished, new requests get 503, then the process ends with 0. The second one ends it now.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from tunesmith.errors import ConfigError
from tunesmith.serve.openai.app import make_app
from tunesmith.serve.openai.service import Service
from tunesmith.serve.openai.settings import Settings

EXIT_DRAINED, EXIT_ENDED = 0, 130
_SAME_SIGNAL_S = 0.5
"""A program that starts ours (`timeout`, a container) often signals it and its group: that is one signal."""
_CUT_OFF_S = 5
"""What still runs after the time for draining is cancelled so many seconds later."""


class Server(uvicorn.Server):
    """uvicorn's server, which drains on the first signal."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._first_signal: float | None = None
        self.exit_code = EXIT_DRAINED

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain; second: end."""
        now = time.monotonic()
        if self._first_signal is None:
            self._first_signal = now
            self._service.is_draining = True
        if now - self._first_signal < _SAME_SIGNAL_S:
            return
        self.exit_code = EXIT_ENDED
        self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second: whether to end."""
        if self._first_signal is not None:
            is_late = time.monotonic() - self._first_signal > self._service.settings.drain_s
            if is_late or not self._service.num_open:
                return True
        return await super().on_tick(counter)


def bind(settings: Settings) -> socket.socket:
    """A socket bound to the address. Raises: ConfigError when that is not possible."""
    is_v6 = ":" in settings.host
    bound = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror or error}",
            fix="stop what listens there, or set API_PORT (0 takes a free port)",
        ) from None
    return bound


def address_of(bound: socket.socket, settings: Settings) -> str:
    """The URL that clients are given as `base_url`, without a path."""
    host = f"[{settings.host.strip('[]')}]" if ":" in settings.host else settings.host
    return f"http://{host}:{bound.getsockname()[1]}"


def run_server(service: Service, bound: socket.socket, on_ready: Callable[[], None] = lambda: None) -> int:
    """Serve until a signal ends it; returns the exit code. Closes the service and the socket.

    Args:
        on_ready: called in the event loop as soon as connections are accepted.
    """
    _log_to_stderr()
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_CUT_OFF_S,
    )
    server = Server(config, service)

    async def serve() -> None:
        task = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if server.started:
            on_ready()
        await task

    try:
        asyncio.run(serve())
    finally:
        service.close()
        bound.close()
    return server.exit_code


def _log_to_stderr() -> None:
    """One handler for our own lines and for uvicorn's warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for name, level in (("tunesmith.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
