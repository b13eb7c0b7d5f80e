"""The server of another engine as a process of ours: started, waited for, asked what went wrong, ended.

It listens on loopback behind a random key. What it prints goes to a log file that stays; when it does not come up, the
last lines are part of the error.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import ModelError
from tunesmith.infer.guard import GRACE_S

POLL_S = 0.25
READY_TIMEOUT_S = 1800.0
"""Loading, compiling and capturing graphs of a large model take many minutes."""
_NUM_LAST_LINES = 15


@dataclass(frozen=True)
class Address:
    """Where a server listens, and the key that it asks for ("" for none)."""

    url: str
    key: str = ""


def free_address() -> Address:
    """A free port on loopback, and a new random key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(f"http://127.0.0.1:{probe.getsockname()[1]}", secrets.token_urlsafe(32))


class ServerProcess:
    """A running server.

    Args:
        name: what it is called in messages and in the name of its log.
        command: the command, as a list; never through a shell.
        env: variables added to this process's environment.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        handle, log = tempfile.mkstemp(prefix=f"tunesmith-{name.lower()}-", suffix=".log")
        self.log = Path(log)
        source = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH", ""))))
        with os.fdopen(handle, "wb") as stream:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "tunesmith.infer.guard", *command],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": paths, **env},
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        """Whether the server is gone."""
        return self._guard.poll() is not None

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until it answers. Raises: ModelError with the end of its log when it ends before, or takes too long."""
        deadline_s = time.monotonic() + timeout_s
        while not is_ready():
            if self.has_ended:
                raise self.failure(f"{self.name} ended while starting, with exit code {self._guard.returncode}")
            if time.monotonic() > deadline_s:
                self.close()
                raise self.failure(f"{self.name} was not ready after {timeout_s:.0f} s")
            time.sleep(POLL_S)

    def failure(self, what: str) -> ModelError:
        """An error that shows the end of the log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_NUM_LAST_LINES:]
        return ModelError(what, where=str(self.log), why="\n".join(lines) or "it printed nothing")

    def close(self) -> None:
        """End it and wait until it is gone. Idempotent."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(GRACE_S + 10)
