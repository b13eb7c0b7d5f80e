"""From a command line to typed values with their origins: file, then overrides; unknown names refused.

The first token that ends in .yaml, .yml or .json is the training file; everything else overrides it. An unknown key
stops with its line and the nearest name, unless ALLOW_EXTRA_ARGS is set; each ignored key is then named in a note.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunesmith.config.cast import cast
from tunesmith.config.files import SUFFIXES, Setting, read_settings, typed_scalar
from tunesmith.config.flags import read_flags
from tunesmith.config.older import REMOVED
from tunesmith.config.schema import specs
from tunesmith.config.spec import FieldSpec
from tunesmith.errors import ConfigError, nearest


@dataclass
class Loaded:
    """What was given: typed values by key, the setting each came from, and notes for the user."""

    config_file: Path | None
    values: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Setting] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load(argv: Sequence[str]) -> Loaded:
    """Read the training file, if one is named first, and the overrides behind it.

    Raises: ConfigError for anything that is not a known key with a valid value.
    """
    path, tokens = split_file(argv)
    loaded = Loaded(path)
    groups = [read_settings(path)] if path else []
    groups.append(read_flags(tokens, is_key))
    for settings in groups:
        _merge(loaded, settings)
    return loaded


def split_file(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The training file that a command line begins with, and the other tokens."""
    if argv and not argv[0].startswith("--") and "=" not in argv[0] and argv[0].lower().endswith(SUFFIXES):
        return Path(argv[0]), list(argv[1:])
    return None, list(argv)


def is_key(name: str) -> bool:
    """Whether `name` is a key or an older spelling of one."""
    return name in specs() or name in aliases() or name in REMOVED


@lru_cache(maxsize=1)
def aliases() -> dict[str, str]:
    """Older spelling -> key."""
    return {alias: spec.name for spec in specs().values() for alias in spec.aliases}


def _merge(loaded: Loaded, settings: Sequence[Setting]) -> None:
    """Add the settings of one source to those of the sources before it."""
    here: dict[str, Setting] = {}
    for setting in settings:
        name, _, part = setting.key.partition(".")
        spec = _find(name, setting, loaded.notes)
        if spec is None:
            continue
        key, earlier = spec.name, here.get(spec.name)
        if earlier and earlier.key != setting.key and setting.kind == "file":
            raise ConfigError(
                f"{earlier.key} and {setting.key} are the same setting",
                where=f"{earlier.where} and {setting.where}",
                fix=f"keep {key} only",
            )
        if setting.raw is True and "bool" not in spec.kinds and "true" not in spec.older_values:
            raise ConfigError(f"--{key} needs a value", why=f"expected {spec.expected()}", fix=f"write --{key} VALUE")
        here[key] = setting
        value = _entry(spec, loaded.values.get(key), part, setting) if part else cast(spec, setting.raw, setting.where)
        loaded.values[key], loaded.settings[key] = value, setting
        _note_older_value(spec, setting, value, loaded.notes)


def _find(name: str, setting: Setting, notes: list[str]) -> FieldSpec | None:
    """The option that `name` stands for; None when it is unknown but extra keys are allowed."""
    spec = specs().get(name)
    if spec:
        return spec
    if name in aliases():
        found = specs()[aliases()[name]]
        if name not in found.short:
            notes.append(f"{setting.where}: {name} is an older spelling of {found.name}; it was read as that")
        return found
    if os.environ.get("ALLOW_EXTRA_ARGS", "").lower() in ("1", "true", "y"):
        notes.append(f"{setting.where}: {name} is not a key; it was ignored because ALLOW_EXTRA_ARGS is set")
        return None
    if name in REMOVED:
        raise ConfigError(f"{name} no longer exists", where=setting.where, fix=REMOVED[name])
    hint = " or ".join(f"'{key}'" for key in _like(name))
    raise ConfigError(
        f"unknown key '{name}'",
        where=setting.where,
        fix=f"Did you mean {hint}?" if hint else "`tunesmith config reference` lists all keys",
    )


def _like(name: str) -> list[str]:
    """The keys that somebody who wrote `name` may have meant: alike in spelling, or else containing it."""
    close = nearest(name, [*specs(), *aliases()], 2)
    close = [*close, *(key for key in specs() if name and key.startswith(name.lower()))][:2]
    return list(dict.fromkeys(aliases().get(key, key) for key in close))


def _entry(spec: FieldSpec, before: Any, part: str, setting: Setting) -> Any:
    """`before` with one entry set: `lr_scheduler_kwargs.min_lr=1e-6`."""
    if "dict" not in spec.kinds:
        raise ConfigError(f"{spec.name} is not a mapping", where=setting.where, why=f"expected {spec.expected()}")
    entries = dict(before) if isinstance(before, dict) else {}
    entries[part] = typed_scalar(setting.raw) if isinstance(setting.raw, str) else setting.raw
    return cast(spec, entries, setting.where)


def _note_older_value(spec: FieldSpec, setting: Setting, value: Any, notes: list[str]) -> None:
    text = str(setting.raw).strip().lower()
    if text in spec.older_values and not isinstance(value, bool) and text != str(value):
        notes.append(f"{setting.where}: {spec.name}: {setting.raw} is an older spelling; it was read as {value}")
