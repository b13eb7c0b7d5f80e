"""Reading routes: the models, health, metrics, the OpenAPI document."""

from __future__ import annotations

from tunesmith.serve.conformance.suite import Checks
from tunesmith.serve.conformance.target import Mode, Target, error_of, expect

CHECKS = Checks()


@CHECKS.add("models are listed", ["plain"])
def _listed(target: Target, mode: Mode) -> None:
    body = target.send("GET", "models").json()
    expect(body["object"] == "list", "it is no list")
    names = [model["id"] for model in body["data"]]
    expect(target.model in names, f"{target.model} is not among {names}")
    expect(all(model["object"] == "model" and isinstance(model["created"], int) for model in body["data"]), "no models")


@CHECKS.add("one model by name", ["plain"])
def _one(target: Target, mode: Mode) -> None:
    expect(target.send("GET", f"models/{target.model}").json()["id"] == target.model, "another model was told")
    error_of(target.send("GET", "models/no-such-model"), 404)


@CHECKS.add("health", ["plain"])
def _health(target: Target, mode: Mode) -> None:
    expect(target.send("GET", "/health").status_code == 200, "not healthy")


@CHECKS.add("metrics", ["plain"])
def _metrics(target: Target, mode: Mode) -> None:
    response = target.send("GET", "/metrics")
    expect(response.status_code == 200, f"status {response.status_code}")
    lines = [line for line in response.text.splitlines() if line and not line.startswith("#")]
    expect(bool(lines), "there are no figures")
    for line in lines:
        float(line.rpartition(" ")[2])


@CHECKS.add("OpenAPI document", ["plain"])
def _document(target: Target, mode: Mode) -> None:
    paths = target.send("GET", "/openapi.json").json()["paths"]
    expect("/v1/chat/completions" in paths, "the chat route is not described")
