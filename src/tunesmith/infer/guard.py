"""A process that stands between Tunesmith and a server that it has started, and ends the server when Tunesmith is gone.

`python -m tunesmith.infer.guard COMMAND...` runs the command in a process group of its own and holds on to standard
input, whose other end Tunesmith keeps open. When that end closes, because the engine is closed or because Tunesmith was
killed, the group gets SIGTERM and, where that is not enough, SIGKILL. Without it a killed prediction would leave a
server behind that occupies the GPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE_S = 20.0


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input does; returns its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of standard input is the one thing that ends it
    threading.Thread(target=_end_after_input, args=(child,), daemon=True).start()
    return child.wait()


def _end_after_input(child: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    _signal_group(child, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    _signal_group(child, signal.SIGKILL)  # also what a server leaves behind of its workers


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
