"""`/set key=value` of the terminal chat: which sampling settings can change while talking, and how text is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tunesmith.errors import ConfigError, did_you_mean
from tunesmith.infer.engine import SamplingParams

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _bool(text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise ValueError(text)


def read_switch(command: str, text: str) -> bool:
    """`on` or `off`. Raises: ConfigError for anything else."""
    try:
        return _bool(text)
    except ValueError:
        raise ConfigError(f"'{text}' is neither on nor off", fix=f"{command} on, or {command} off") from None


SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "do_sample": (_bool, "true or false"),
    "temperature": (float, "a number"),
    "top_p": (float, "a number"),
    "top_k": (int, "a whole number"),
    "max_new_tokens": (int, "a whole number"),
    "repetition_penalty": (float, "a number"),
    "seed": (int, "a whole number"),
}
"""Key -> how its text is read, and what it must be in words."""


def change(params: SamplingParams, assignment: str) -> tuple[SamplingParams, str]:
    """Apply `key=value` (or `key value`); returns the new settings and the key that changed.

    Raises: ConfigError for an unknown key, an unreadable value, or one out of bounds.
    """
    key, _, text = (part.strip() for part in assignment.replace("=", " ", 1).partition(" "))
    if key not in SETTINGS:
        hint = did_you_mean(key, SETTINGS)
        raise ConfigError(f"no setting '{key}'", fix=f"{hint} Settings: {', '.join(SETTINGS)}.".strip())
    read, wanted = SETTINGS[key]
    try:
        value = read(text)
    except ValueError:
        raise ConfigError(f"{key} must be {wanted}, not '{text}'", fix=f"For example: /set {key}=...") from None
    return replace(params, **{key: value}), key


def describe(params: SamplingParams) -> str:
    """All settings on one line."""
    return "  ".join(f"{key}={getattr(params, key)}" for key in SETTINGS)
