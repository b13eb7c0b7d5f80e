"""The effective configuration of a run: defaults, file, overrides, then decisions, each value with its origin.

`resolve(argv, verb=...)` is what every verb calls. What depends on the device or the model is decided later, where it
is known, with `Resolved.replace`, and is recorded in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tunesmith.config.decide import DECISIONS, Facts
from tunesmith.config.load import Loaded, load
from tunesmith.config.rules import check_availability, check_rules, notes_on_use
from tunesmith.config.schema import Config, specs
from tunesmith.errors import ConfigError


@dataclass(frozen=True)
class Origin:
    """Where a value came from: `where` is `file:line` or the flag, `why` the reason of a decision."""

    kind: Literal["file", "flag", "default", "decided"]
    where: str = ""
    why: str = ""


@dataclass(frozen=True)
class Resolved:
    """A configuration with the origin of every key, and what the user should be told about it.

    Attributes:
        config: the values.
        origins: for every key, where its value came from.
        notes: sentences to print once: older spellings, keys without effect, decisions worth knowing.
        config_file, config_dir: the training file and its folder (the working directory when there is none).
        problems: broken rules, when `resolve` was told to collect instead of to raise.
    """

    config: Config
    origins: dict[str, Origin]
    notes: list[str] = field(default_factory=list)
    config_file: Path | None = None
    config_dir: Path = field(default_factory=Path.cwd)
    problems: tuple[ConfigError, ...] = ()

    def replace(self, key: str, value: Any, why: str) -> Resolved:
        """The same with one key decided otherwise, and why. Raises: KeyError for an unknown key."""
        specs()[key]
        config = Config(**{**self.config.__dict__, key: value})
        return replace(self, config=config, origins={**self.origins, key: Origin("decided", why=why)})

    def given(self, key: str) -> bool:
        """Whether the user set the key, in the file or by a flag."""
        return self.origins[key].kind in ("file", "flag")

    def effective(self) -> dict[str, Any]:
        """Every key with its value as plain JSON-able data, without secrets: what `run.yaml` records."""
        return {name: _plain(name, value) for name, value in self.config.__dict__.items()}


def resolve(argv: Sequence[str], *, verb: str, collect: bool = False) -> Resolved:
    """The configuration that a command line asks for.

    Args:
        argv: what follows the verb: a training file, overrides, or both.
        verb: the verb that will use it; only rules and capabilities that concern it are enforced.
        collect: list broken rules in `problems` instead of raising the first.

    Raises: ConfigError for an unknown key, a bad value, a capability that does not exist yet, or a broken rule.
    """
    loaded = load(argv)
    problems = check_availability(loaded, verb)
    _raise_first(problems, collect)
    facts = _decide(loaded, verb)
    config = Config(**facts.values)
    problems += check_rules(config, loaded, verb)
    _raise_first(problems, collect)
    notes = [*loaded.notes, *facts.notes, *notes_on_use(config, loaded, verb)]
    folder = loaded.config_file.resolve().parent if loaded.config_file else Path.cwd()
    return Resolved(config, _origins(loaded, facts), notes, loaded.config_file, folder, tuple(problems))


def _decide(loaded: Loaded, verb: str) -> Facts:
    values = {name: loaded.values.get(name, spec.default) for name, spec in specs().items()}
    facts = Facts(values, frozenset(loaded.values), verb)
    for decision in DECISIONS:
        decision(facts)
    return facts


def _origins(loaded: Loaded, facts: Facts) -> dict[str, Origin]:
    origins = {}
    for name in specs():
        setting = loaded.settings.get(name)
        if name in facts.reasons:
            origins[name] = Origin("decided", setting.where if setting else "", facts.reasons[name])
        elif setting:
            origins[name] = Origin("file" if setting.kind == "file" else "flag", setting.where)
        else:
            origins[name] = Origin("default")
    return origins


def _raise_first(problems: Sequence[ConfigError], collect: bool) -> None:
    if problems and not collect:
        raise problems[0]


def _plain(name: str, value: Any) -> Any:
    if specs()[name].secret:
        return None
    return list(value) if isinstance(value, tuple) else value
