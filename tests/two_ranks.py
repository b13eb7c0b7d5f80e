"""Several trainings, one after the other, on two ranks over gloo, from one process that has imported everything.

Starting two interpreters that import torch takes longer than a tiny training. Run as a module this is that process: it
forks the two ranks of each training, with the environment that torchrun would set.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

WORLD_SIZE = 2


def train_on_two_ranks(runs: Sequence[Sequence[str]], folder: Path, timeout_s: float = 300) -> None:
    """Train every command line (after `train`). Raises: AssertionError with what was printed when one fails."""
    file = folder / "runs.json"
    file.write_text(json.dumps([list(map(str, run)) for run in runs]), encoding="utf-8")
    command = [sys.executable, "-m", "tests.two_ranks", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _work(file: Path) -> int:
    import tunesmith.train.run  # noqa: F401  imported once, before the ranks are forked

    for arguments in json.loads(file.read_text(encoding="utf-8")):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        ranks = [_fork(rank, port, arguments) for rank in range(WORLD_SIZE)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks]
        if any(codes):
            print(f"exit codes {codes}: {arguments}", file=sys.stderr)
            return 1
    return 0


def _fork(rank: int, port: int, arguments: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    from tunesmith.cli.main import main

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(WORLD_SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 1
    try:
        code = main(["train", *arguments])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(_work(Path(sys.argv[1])))
