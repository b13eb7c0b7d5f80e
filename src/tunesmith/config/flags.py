"""Overrides on the command line, in every spelling in use.

`key=value`, `--key value`, `--key=value`, bare `--flag`, `--no_flag`, several values forming a list, dashes for
underscores, and `key.part=value` for one entry of a mapping. They may be mixed and may follow a training file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tunesmith.config.files import Setting
from tunesmith.errors import ConfigError

_ASSIGNMENT = re.compile(r"([A-Za-z_][\w-]*(?:\.[\w-]+)*)=(.*)", re.DOTALL)


def read_flags(tokens: Sequence[str], is_key: Callable[[str], bool]) -> list[Setting]:
    """The settings that the tokens of a command line make, in order.

    A bare flag has the raw value True.

    Args:
        tokens: what follows the verb and the training file.
        is_key: whether a name is a key, or an older spelling of one.

    Raises: ConfigError for a token that belongs to no key.
    """
    settings: list[Setting] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token.startswith("--") and len(token) > 2:
            name, equals, text = token[2:].partition("=")
            values = [text] if equals else _values(tokens, at, is_key)
            at += 0 if equals else len(values)
            settings.append(_flag(name, values, is_key))
        elif match := _ASSIGNMENT.fullmatch(token):
            settings.append(Setting(_plain(match[1]), match[2], f"command line, {match[1]}", "flag"))
        else:
            raise _stray(token, at - 1, tokens)
    return settings


def _values(tokens: Sequence[str], start: int, is_key: Callable[[str], bool]) -> list[str]:
    """The tokens after a flag that are its values: up to the next flag or `known_key=...`."""
    values: list[str] = []
    for token in tokens[start:]:
        match = _ASSIGNMENT.fullmatch(token)
        if token.startswith("--") or (match and is_key(_plain(match[1]).split(".")[0])):
            break
        values.append(token)
    return values


def _flag(name: str, values: list[str], is_key: Callable[[str], bool]) -> Setting:
    key = _plain(name)
    if not is_key(key.split(".")[0]) and key.startswith("no_") and is_key(key[3:]) and not values:
        return Setting(key[3:], "false", f"command line, --{name}", "flag")
    raw: Any = values if len(values) > 1 else values[0] if values else True
    return Setting(key, raw, f"command line, --{name}", "flag")


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _stray(token: str, at: int, tokens: Sequence[str]) -> ConfigError:
    if token.startswith("-") and len(token) > 1:
        return ConfigError(f"'{token}' is not understood", fix=f"write it with two dashes: --{token.lstrip('-')}")
    if at == 0:
        return ConfigError(
            f"'{token}' is neither a training file nor a setting",
            why="a training file ends in .yaml, .yml or .json",
            fix="write settings as key=value or --key value",
        )
    return ConfigError(
        f"'{token}' belongs to no key", where=f"after {tokens[at - 1]}", fix="write key=value or --key value"
    )
