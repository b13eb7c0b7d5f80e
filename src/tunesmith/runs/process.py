"""The only place that starts processes: a Python module in a fresh interpreter, or one training process per device.

Commands are lists, never strings through a shell, so a path with a space stays one argument. The child runs this
interpreter with the same packages; PYTHONSAFEPATH keeps a `json.py` in the user's folder from shadowing a module.
Signals: a terminal's Ctrl-C reaches the whole group, and training saves on it, so the parent must outlive its
children instead of killing them (`subprocess.run` would, after a quarter of a second).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.runs.machine import num_visible_gpus

# torchrun answers a failed rank and a signal with its own traceback and exit code 1; the ranks have said what is wrong
# already (and saved), so only the exit code is wanted.
TORCHRUN = """
import sys
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
try:
    main(sys.argv[1:])
except ChildFailedError as error:
    code = error.get_first_failure()[1].exitcode
    sys.exit(code if code > 0 else 128 - code)
except SignalException as error:
    sys.exit(128 + error.sigval)
"""
TRUE_WORDS = ("1", "true", "y", "yes", "on")


def run_module(
    module: str,
    args: Sequence[str],
    *,
    timeout_s: float | None = None,
    capture: bool = True,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module args` in a fresh interpreter and wait for it.

    Args:
        capture: keep stdout and stderr as text in the result; False leaves them on this process's own, and lets the
            child save and leave when it is interrupted.
        env: variables added to this process's environment.
        timeout_s: seconds after which the child is killed; None waits without limit.

    Raises: subprocess.TimeoutExpired.
    """
    command = [sys.executable, "-m", module, *args]
    if capture:
        return subprocess.run(
            command, timeout=timeout_s, capture_output=True, text=True, cwd=cwd, env=_child_env(env), check=False
        )
    with subprocess.Popen(command, cwd=cwd, env=_child_env(env)) as process:
        return subprocess.CompletedProcess(command, _wait_and_pass_signals(process, timeout_s))


def wants_torchrun(environ: Mapping[str, str]) -> bool:
    """Whether `train` should start several processes: asked for, or several GPUs, and not inside such a process."""
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return False
    return _is_true(environ.get("FORCE_TORCHRUN", "")) or num_visible_gpus(environ) > 1


def torchrun_command(args: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The torchrun command for `tunesmith train args`, from the environment variables that users set.

    NNODES, NODE_RANK, NPROC_PER_NODE, MASTER_ADDR, MASTER_PORT give the fixed form; RDZV_ID (with MIN_NNODES,
    MAX_NNODES, MAX_RESTARTS) the elastic one. Raises: ConfigError when a number is not one.
    """
    num_nodes = _number(environ, "NNODES", 1)
    num_processes = _number(environ, "NPROC_PER_NODE", max(1, num_visible_gpus(environ)))
    address = environ.get("MASTER_ADDR", "127.0.0.1")
    port = _number(environ, "MASTER_PORT", 0) or _free_port(num_nodes)
    launch = [sys.executable, "-c", TORCHRUN, "--nproc-per-node", str(num_processes)]
    if environ.get("RDZV_ID"):
        low, high = environ.get("MIN_NNODES"), environ.get("MAX_NNODES")
        launch += ["--nnodes", f"{low}:{high}" if low and high else str(num_nodes)]
        launch += ["--rdzv-id", environ["RDZV_ID"], "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{address}:{port}"]
        launch += ["--max-restarts", str(_number(environ, "MAX_RESTARTS", 0))]
    else:
        launch += ["--nnodes", str(num_nodes), "--node-rank", str(_number(environ, "NODE_RANK", 0))]
        launch += ["--master-addr", address, "--master-port", str(port)]
    return [*launch, "-m", "tunesmith", "train", *args]


def launch_torchrun(args: Sequence[str]) -> int:
    """Train with one process per device; returns the exit code of the rank that failed first, or 0.

    Ctrl-C and SIGTERM let the ranks save before they leave.
    """
    command = torchrun_command(args, os.environ)
    # One thread pool per rank, not one per rank and core: torchrun itself would fall back to one thread.
    num_ranks = int(command[command.index("--nproc-per-node") + 1])
    threads = str(max(1, (os.cpu_count() or 1) // num_ranks))
    env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    if _is_true(os.environ.get("OPTIM_TORCH", "1")):
        env["PYTORCH_CUDA_ALLOC_CONF"] = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with subprocess.Popen(command, env=_child_env(env)) as process:
        return _wait_and_pass_signals(process)


def _wait_and_pass_signals(process: subprocess.Popen[bytes], timeout_s: float | None = None) -> int:
    """Wait for the child; a SIGTERM sent to this process alone is handed on, an interrupt is left to the group."""
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python sets handlers nowhere else
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
        previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _child_env(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "PYTHONSAFEPATH": "1", **(extra or {})}


def _free_port(num_nodes: int) -> int:
    if num_nodes > 1:
        raise ConfigError(
            "MASTER_PORT is not set for a training on several machines",
            why="all machines must meet at one port; a free one here says nothing about the others",
            fix="set MASTER_ADDR and MASTER_PORT to the same values on every machine",
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdigit():
        raise ConfigError(f"the environment variable {name} is '{text}', not a whole number", fix=f"export {name}=1")
    return int(text)


def _is_true(text: str) -> bool:
    return text.strip().lower() in TRUE_WORDS
