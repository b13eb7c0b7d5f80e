"""Check a running OpenAI-compatible server with real clients, each in an environment of its own.

    python scripts/check_clients.py http://127.0.0.1:8000/v1 [--model NAME] [--only NAME ...] [--folder DIR]

The key is read from API_KEY. Environments (venvs, one npm folder) are made below --folder and kept for the next time.
The same seven features go through every client, whole and streamed; a table is printed. Exit code 0: nothing failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

DRIVERS = Path(__file__).parent / "clients"
PYTHON_CLIENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    # the oldest client that works: httpx 0.28 took away an argument that it uses
    "openai-oldest": ("with_openai.py", ("openai==1.0.0", "httpx<0.28")),
    "openai-newest": ("with_openai.py", ("openai",)),
    "httpx": ("with_httpx.py", ("httpx",)),
    "langchain": ("with_langchain.py", ("langchain-openai",)),
    "litellm": ("with_litellm.py", ("litellm", "mcp")),  # it imports mcp as soon as there are tools
}
NODE = "node"
DRIVER_TIMEOUT_S = 1200


def main() -> int:
    """Run the clients that were named and print their table; 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--model", default="")
    parser.add_argument("--only", nargs="*", choices=[*PYTHON_CLIENTS, NODE], default=[*PYTHON_CLIENTS, NODE])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tunesmith-clients")
    given = parser.parse_args()
    key = os.environ.get("API_KEY", "")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "CLIENT_URL": given.url,
        "CLIENT_KEY": key,
        "CLIENT_MODEL": given.model or first_model(given.url, key),
    }
    results: list[dict[str, Any]] = []
    for name in given.only:
        results += run_client(name, given.folder, environment)
    print(table(results))
    return 1 if any(result["verdict"] == "FAIL" for result in results) else 0


def first_model(url: str, key: str) -> str:
    """The name of the first model that the server lists."""
    request = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(json.load(response)["data"][0]["id"])


def run_client(name: str, folder: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """The verdicts of one client; a single failure when it cannot be installed or dies."""
    try:
        command, extra = _node(folder) if name == NODE else _python(name, folder)
    except subprocess.CalledProcessError as error:
        return [_failure(name, "installation", (error.stderr or b"").decode()[-300:])]
    done = subprocess.run(
        command, env={**environment, **extra}, stdout=subprocess.PIPE, text=True, timeout=DRIVER_TIMEOUT_S, check=False
    )
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"client"')]
    if done.returncode or not results:
        results.append(_failure(name, "driver", f"exit code {done.returncode}"))
    return results


def _python(name: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    driver, requirements = PYTHON_CLIENTS[name]
    home = folder / name
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True)
        install = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", *requirements]
        subprocess.run(install, check=True, capture_output=True)
        (home / "ready").touch()
    return [str(home / "bin" / "python"), str(DRIVERS / driver)], {}


def _node(folder: Path) -> tuple[list[str], dict[str, str]]:
    home = folder / NODE
    if not (home / "node_modules" / "openai").exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"private": true}')
        subprocess.run(["npm", "install", "--silent", "openai"], cwd=home, check=True, capture_output=True)
    return ["node", str(DRIVERS / "with_node.mjs")], {"CLIENT_MODULES": str(home / "node_modules")}


def _failure(client: str, feature: str, detail: str) -> dict[str, Any]:
    return {"client": client, "feature": feature, "mode": "plain", "verdict": "FAIL", "detail": detail}


def table(results: list[dict[str, Any]]) -> str:
    """Feature x client, `plain/stream` in each cell, then what did not pass."""
    clients = list(dict.fromkeys(result["client"] for result in results))
    features = list(dict.fromkeys(result["feature"] for result in results))
    verdicts = {(r["client"], r["feature"], r["mode"]): r["verdict"] for r in results}
    lines = ["| feature (plain / stream) | " + " | ".join(clients) + " |", "|---" * (len(clients) + 1) + "|"]
    for feature in features:
        cells = [
            " / ".join(verdicts.get((client, feature, mode), "-") for mode in ("plain", "stream")) for client in clients
        ]
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    remarks = [
        f"{r['verdict']} {r['client']}: {r['feature']} ({r['mode']}): {r['detail']}"
        for r in results
        if r["verdict"] != "PASS"
    ]
    return "\n".join([*lines, "", *remarks])


if __name__ == "__main__":
    sys.exit(main())
