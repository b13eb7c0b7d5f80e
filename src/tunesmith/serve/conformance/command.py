"""`tunesmith api --selfcheck`: the suite against a server of our own making, or against one that runs.

Our own is the real thing: a child process, a real socket, a key made up for it. After the checks it is asked to end,
which must work too.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import httpx

from tunesmith.errors import ConfigError
from tunesmith.serve.conformance.report import table, write_report
from tunesmith.serve.conformance.suite import Result, all_checks, run_suite
from tunesmith.serve.conformance.target import Target

EXIT_PASSED, EXIT_FAILED = 0, 1
_READY = re.compile(r"^serving .* on (http://\S+/v1)$")
_LOADING_S = 600
_ENDING_S = 30


def check_running(url: str, model: str = "", report: str = "") -> int:
    """Check the server at `url`, whose key is in API_KEY; returns the exit code.

    Args:
        model: the name to ask for; empty: the first one it lists.
        report: a file to write besides the table, .json or .xml (JUnit).

    Raises: ConfigError when nothing answers there.
    """
    target = _target(url.rstrip("/"), os.environ.get("API_KEY", "").strip(), model)
    return _told(_checked(target), report)


def check_file(argv: Sequence[str], model: str = "", report: str = "") -> int:
    """Serve what `argv` names in a child process, check it, end it; returns the exit code.

    Raises: ConfigError when the server does not come up, with what it said.
    """
    key = secrets.token_hex(16)
    environment = {**os.environ, "API_HOST": "127.0.0.1", "API_PORT": "0", "API_KEY": key}
    command = [sys.executable, "-m", "tunesmith", "api", *argv]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log, _started(command, environment, log) as server:
        try:
            results = _checked(_target(_url_of(server, log), key, model))
            results.append(_end(server))
        finally:
            if server.poll() is None:
                server.kill()
    return _told(results, report)


def _started(command: Sequence[str], environment: Mapping[str, str], log: TextIO) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)


def _url_of(server: subprocess.Popen[str], log: TextIO) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if found := _READY.match(line.strip()):
            return found[1]
    code = server.wait(_LOADING_S)
    log.seek(0)
    raise ConfigError(
        "the server has not come up", why=f"it ended with exit code {code} and said:\n{log.read()[-4000:]}"
    )


def _end(server: subprocess.Popen[str]) -> Result:
    """Ask the server to end, as a check of its own."""
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(_ENDING_S)
        detail = "" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        detail = f"still there after {_ENDING_S} s"
    name = "SIGTERM ends the server with 0"
    return Result(name, "plain", "FAIL" if detail else "PASS", detail, time.monotonic() - began)


def _target(url: str, key: str, model: str) -> Target:
    if not url.endswith("/v1"):
        raise ConfigError(f"{url} is no base URL", fix="it ends with /v1, as http://127.0.0.1:8000/v1")
    try:
        response = Target(url, key, "").send("GET", "models")
    except httpx.HTTPError as error:
        raise ConfigError(f"nothing answers at {url}: {error}") from None
    if response.status_code != 200:
        raise ConfigError(
            f"{url}/models answers with status {response.status_code}",
            fix="put the server's key into API_KEY" if response.status_code == 401 else "",
        )
    return Target(url, key, model or response.json()["data"][0]["id"])


def _checked(target: Target) -> list[Result]:
    print(f"checking {target.model} at {target.url}", flush=True)
    return run_suite(target, all_checks(), on_result=_say)


def _say(result: Result) -> None:
    """One line as soon as a check is done, since all of them take minutes on a slow machine."""
    print(f"{result.verdict} {result.seconds:6.1f} s  {result.name} ({result.mode})", file=sys.stderr, flush=True)


def _told(results: Sequence[Result], report: str) -> int:
    print(table(results))
    if report:
        write_report(results, Path(report))
        print(f"report: {report}")
    return EXIT_FAILED if any(result.verdict == "FAIL" for result in results) else EXIT_PASSED
