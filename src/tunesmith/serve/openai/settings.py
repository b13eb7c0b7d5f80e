"""How the server is reached: the public tool's environment variables, with safer defaults.

API_HOST (127.0.0.1), API_PORT (8000; 0 takes a free one), API_KEY, API_MODEL_NAME, FASTAPI_ROOT_PATH, MAX_CONCURRENT
(unset: the engine decides). Of our own: API_CORS_ORIGINS (none), API_MAX_BODY_MB (8), API_MAX_WAITING (256),
API_DRAIN_SECONDS (60), API_VERBOSE (no effect but a note: prompts are never logged).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.errors import ConfigError

MAX_PORT = 65535


@dataclass(frozen=True)
class Settings:
    """The server's settings. `max_concurrent` None leaves it to the engine how many answers run at once."""

    host: str = "127.0.0.1"
    port: int = 8000
    key: str = ""
    model_name: str = ""
    root_path: str = ""
    max_concurrent: int | None = None
    max_waiting: int = 256
    max_body_bytes: int = 8 * 2**20
    drain_s: float = 60.0
    cors_origins: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    name = host.strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def settings_from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the variables.

    Raises: ConfigError for a value of the wrong form, or an address that others reach without a key.
    """
    verbose = environment.get("API_VERBOSE", "0").strip().lower() in ("1", "true", "y")
    notes = ("API_VERBOSE is set: prompts and answers are not logged all the same",) if verbose else ()
    settings = Settings(
        host=environment.get("API_HOST", "").strip() or "127.0.0.1",
        port=_whole_number(environment, "API_PORT", 8000, 0, MAX_PORT),
        key=environment.get("API_KEY", "").strip(),
        model_name=environment.get("API_MODEL_NAME", "").strip(),
        root_path=environment.get("FASTAPI_ROOT_PATH", "").strip().rstrip("/"),
        max_concurrent=_whole_number(environment, "MAX_CONCURRENT", 0, 1, 2**20) or None,
        max_waiting=_whole_number(environment, "API_MAX_WAITING", 256, 0, 2**20),
        max_body_bytes=_whole_number(environment, "API_MAX_BODY_MB", 8, 1, 1024) * 2**20,
        drain_s=_whole_number(environment, "API_DRAIN_SECONDS", 60, 0, 86400),
        cors_origins=tuple(part.strip() for part in environment.get("API_CORS_ORIGINS", "").split(",") if part.strip()),
        notes=notes,
    )
    if not settings.is_local and not settings.key:
        raise ConfigError(
            f"API_HOST={settings.host} can be reached from other machines, and there is no API_KEY",
            why="anybody there could use the model, and read it out",
            fix="set API_KEY to a long random text (`openssl rand -hex 24`), or leave API_HOST out: 127.0.0.1",
        )
    if not (settings.key.isascii() and settings.key.isprintable()) or " " in settings.key:
        raise ConfigError("API_KEY holds characters that no HTTP header can carry", fix="use letters and digits")
    if "*" in settings.cors_origins:
        raise ConfigError(
            "API_CORS_ORIGINS=* would let every web page talk to the model",
            fix="name the origins, separated by commas: https://chat.example.org",
        )
    return settings


def _whole_number(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise ConfigError(f"{name}={text} is not a whole number from {low} to {high}", where="environment")
    return int(text)
