"""What vLLM and SGLang have in common: which models a server serves under which names, how it is started or found.

A stack of adapters cannot be served (each request has one), nor a base that is quantized or stretched on the fly, since
these servers read the files by themselves. What would therefore be another model than the one asked for is refused.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.infer.locate import Located
from tunesmith.infer.names import base_name, served_adapters, tuned_name
from tunesmith.infer.remote import Dialect, RemoteEngine
from tunesmith.infer.server_process import Address, ServerProcess, free_address
from tunesmith.infer.wire import Call
from tunesmith.model.load import model_folder
from tunesmith.render import Renderer

Opened = tuple[RemoteEngine, list[str]]
"""An engine, and what the user should know about it."""


@dataclass(frozen=True)
class Plan:
    """What a server serves.

    Attributes:
        base: folder of the base model; `base_name`: what requests call it.
        adapters: name -> folder; the first one is what the configuration means. Names are those of `infer/names`.
        extra: further settings of the server, by name.
    """

    base: str
    base_name: str
    adapters: Mapping[str, Path]
    extra: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all models in the order of `Engine.models`: the one that is meant, the base, others."""
        first, others = tuple(self.adapters)[:1], tuple(self.adapters)[1:]
        return (*first, self.base_name, *others)


@dataclass(frozen=True)
class Server:
    """One kind of server.

    Attributes:
        dialect: (name of the base) -> how it is talked to.
        program: the command that must be on the PATH, or the Python package; `install`: how to get it.
        command: (plan, config, address, number of devices) -> the command line.
        environment: (address) -> environment variables of the process.
        extra: `vllm_config` or `sglang_config`; `extra_key`: which of them.
    """

    dialect: Callable[[str], Dialect]
    program: str
    install: str
    command: Callable[[Plan, Config, Address, int], list[str]]
    environment: Callable[[Address], Mapping[str, str]]
    max_length: int
    extra: Mapping[str, Any] | str | None
    extra_key: str


def open_server(server: Server, config: Config, located: Located, renderer: Renderer) -> Opened:
    """An engine on a server: the one at `infer_url`, else one that is started here and ends with the engine.

    Raises: ModelError when it is missing, does not start, or does not serve what was located; ConfigError when it
    cannot serve it.
    """
    plan = make_plan(server, config, located)
    dialect = server.dialect(plan.base_name)
    if config.infer_url is not None:
        return _join(dialect, plan, server, config, renderer)
    command = server.command(plan, config, (address := free_address()), torch.cuda.device_count())
    if shutil.which(command[0]) is None or (command[0] == sys.executable and not _has_package(server.program)):
        raise ModelError(f"{dialect.name} is not installed", fix=server.install)
    process = ServerProcess(dialect.name, command, server.environment(address))
    try:
        process.wait_until(lambda: _is_healthy(address))
    except BaseException:
        process.close()
        raise
    engine = RemoteEngine(dialect, address, plan.names, server.max_length, renderer.tokenizer, process)
    return engine, [f"{dialect.name} is running; its log is {process.log}"]


def make_plan(server: Server, config: Config, located: Located) -> Plan:
    """Which models are to be served. Raises: ConfigError for what such a server would serve otherwise than meant."""
    for key in ("quantization_bit", "rope_scaling"):
        if getattr(config, key) is not None:
            raise ConfigError(
                f"{key} is set, which infer_backend: {config.infer_backend} would not heed",
                why="the server reads the model's files by itself",
                fix=f"remove {key}, or use infer_backend: huggingface",
            )
    if len(located.adapters) > 1:
        raise ConfigError(
            f"{len(located.adapters)} adapters act together, but {config.infer_backend} uses one per request",
            fix="merge them with `tunesmith export` and name the merged model, or use infer_backend: huggingface",
        )
    base, tuned = base_name(located), tuned_name(located)
    adapters = {} if tuned is None else {tuned: Path(located.adapters[0])}
    adapters |= served_adapters(config, located, (*adapters, base))
    resolved = {name: folder.expanduser().resolve() for name, folder in adapters.items()}
    folder = model_folder(replace(config, model_name_or_path=located.model))
    return Plan(str(folder), base, resolved, extra_settings(server))


def extra_settings(server: Server) -> dict[str, Any]:
    """`vllm_config` or `sglang_config` as a mapping. Raises: ConfigError when it is text that is no JSON object."""
    if not server.extra:
        return {}
    try:
        found = json.loads(server.extra) if isinstance(server.extra, str) else server.extra
    except ValueError as error:
        raise ConfigError(f"{server.extra_key} is not JSON: {error}", fix="write it as a mapping") from None
    if not isinstance(found, Mapping):
        raise ConfigError(f"{server.extra_key} is not a mapping of settings", fix='such as {"max_num_seqs": 64}')
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """`{"enforce_eager": True, "port": 1}` as `--enforce-eager --port 1`; mappings as JSON, lists as several values.

    False and None leave a flag out.
    """
    flags: list[str] = []
    for name, value in settings.items():
        if value is None or value is False:
            continue
        flags.append("--" + name.replace("_", "-"))
        if isinstance(value, Mapping):
            flags.append(json.dumps(dict(value)))
        elif isinstance(value, (list, tuple)):
            flags += [str(item) for item in value]
        elif value is not True:
            flags.append(str(value))
    return flags


def _join(dialect: Dialect, plan: Plan, server: Server, config: Config, renderer: Renderer) -> Opened:
    """An engine on a server that runs already."""
    address = Address(str(config.infer_url).rstrip("/").removesuffix("/v1"), config.infer_api_key or "")
    try:
        listed = Call(address).get("/v1/models")["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"no {dialect.name} server answers at infer_url: {config.infer_url}",
            why=f"{type(error).__name__}: {error}",
            fix="start it, or remove infer_url to have it started",
        ) from error
    served = [str(entry.get("id")) for entry in listed]
    names = tuple(name for name in plan.names if name in served)
    if plan.names[0] not in served:
        raise ModelError(
            f"the server at {config.infer_url} does not serve '{plan.names[0]}'",
            why=f"it serves {', '.join(served)}",
            fix="start it with that name (vLLM: --served-model-name, --lora-modules; SGLang: --served-model-name, "
            "--lora-paths)",
        )
    lengths = [entry["max_model_len"] for entry in listed if entry.get("max_model_len")]
    engine = RemoteEngine(dialect, address, names, min(lengths, default=server.max_length), renderer.tokenizer)
    return engine, [f"answers come from {config.infer_url}; its weights are not compared with the files named here"]


def _is_healthy(address: Address) -> bool:
    try:
        Call(address).get("/health")
    except (OSError, ValueError, ModelError):
        return False
    return True


def _has_package(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
