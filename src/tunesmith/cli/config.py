"""`tunesmith config`: what a training file comes to, and the documentation made from the options.

    config show FILE [key=value ...] [--set | --all] [--verb VERB]
    config schema [--out FILE]
    config reference [--out FILE | --check [FILE]]

`show` prints every effective value with where it came from, then the notes and the broken rules; it exits with 2 when
a rule is broken. Nothing heavier than a YAML reader is imported, so it answers in about 0.1 s.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.config.cast import show as written
from tunesmith.config.schema import specs
from tunesmith.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from tunesmith.config.resolve import Origin, Resolved
    from tunesmith.config.spec import FieldSpec

REFERENCE_PAGE = Path("docs/configuration.md")
_VALUE_WIDTH = 34


def run(argv: list[str]) -> int:
    """Run one of the sub-commands; returns the exit code. Raises: ConfigError for what the user can remove."""
    if not argv or argv[0] not in _COMMANDS:
        given = f"'{argv[0]}' is no config command" if argv else "which config command?"
        hint = did_you_mean(argv[0], _COMMANDS) if argv else ""
        if argv and argv[0].endswith((".yaml", ".yml", ".json")):
            hint = f"Write `config show {argv[0]}`."
        raise ConfigError(given, fix=f"{hint} Commands: config {', config '.join(_COMMANDS)}.".strip())
    return _COMMANDS[argv[0]](argv[1:])


def _show(argv: list[str]) -> int:
    """Print the effective configuration; 2 when it breaks a rule of the verb, else 0."""
    from tunesmith.config.resolve import resolve

    argv, only_set = _take_flag(argv, "--set")
    argv, everything = _take_flag(argv, "--all")
    argv, verb = _take_value(argv, "--verb")
    if not argv:
        raise ConfigError("config show: which file?", fix="config show FILE.yaml [key=value ...] [--set | --all]")
    resolved = resolve(argv, verb=verb or _likely_verb(argv), collect=True)
    print("\n".join(table(resolved, only_set=only_set, everything=everything)))
    for note in resolved.notes:
        print(f"note: {note}")
    for problem in resolved.problems:
        print(f"\n{problem.render()}")
    return 2 if resolved.problems else 0


def _likely_verb(argv: list[str]) -> str:
    """The verb that a file is written for, by the keys it sets."""
    from tunesmith.config.load import load

    given = load(argv).values
    if given.keys() & {"do_train", "dataset", "output_dir", "do_eval", "learning_rate"}:
        return "train"
    return "export" if "export_dir" in given else "chat"


def table(resolved: Resolved, *, only_set: bool = False, everything: bool = False) -> list[str]:
    """The lines of `config show`: a heading per group, then key, value and origin in columns.

    Args:
        only_set: only what was set or decided. everything: also the keys whose capability does not exist yet.
    """
    shown = [spec for spec in specs().values() if _is_shown(spec, resolved, only_set, everything)]
    width = max((len(spec.name) for spec in shown), default=0)
    lines: list[str] = []
    group = ""
    for spec in shown:
        if spec.group.name != group:
            group = spec.group.name
            title = spec.group.en if spec.group.en == spec.group.zh else f"{spec.group.en} / {spec.group.zh}"
            lines += ["", title] if lines else [title]
        value = _value(spec, resolved)
        lines.append(f"  {spec.name:<{width}}  {_padded(value)}  {_origin(resolved.origins[spec.name])}".rstrip())
    return [*lines, ""]


def _is_shown(spec: FieldSpec, resolved: Resolved, only_set: bool, everything: bool) -> bool:
    if resolved.origins[spec.name].kind != "default":
        return True
    return not only_set and (everything or not (spec.later or spec.noop))


def _value(spec: FieldSpec, resolved: Resolved) -> str:
    value = getattr(resolved.config, spec.name)
    return "***" if spec.secret and value else written(value).replace("\n", "\\n")


def _padded(text: str) -> str:
    """`text` filled up to the column; Chinese characters take two places in a terminal."""
    columns = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
    return text + " " * max(0, _VALUE_WIDTH - columns)


def _origin(origin: Origin) -> str:
    if origin.kind == "decided":
        return f"decided: {origin.why}" + (f" (set at {origin.where})" if origin.where else "")
    return origin.where or "default"


def _schema(argv: list[str]) -> int:
    """Print the JSON schema, or write it to a file."""
    from tunesmith.config.reference import json_schema

    argv, out = _take_value(argv, "--out")
    _nothing_left("schema", argv)
    return _write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", out)


def _reference(argv: list[str]) -> int:
    """Print the reference page, write it, or compare it with a file (1 when they differ)."""
    from tunesmith.config.reference import markdown

    argv, out = _take_value(argv, "--out")
    if "--check" in argv:
        argv, path = _take_value(argv, "--check", default=str(REFERENCE_PAGE))
        _nothing_left("reference", argv)
        return _check(Path(path or ""), markdown())
    _nothing_left("reference", argv)
    return _write(markdown(), out)


def _check(path: Path, text: str) -> int:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        print(f"{path} is up to date")
        return 0
    print(f"{path} is out of date: run `tunesmith config reference --out {path}`")
    return 1


def _write(text: str, out: str | None) -> int:
    if out is None:
        print(text, end="")
        return 0
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"{out} cannot be written", why=str(err.strerror)) from None
    print(f"wrote {out}")
    return 0


def _take_flag(argv: list[str], name: str) -> tuple[list[str], bool]:
    """`argv` without the flag, and whether it was there."""
    return [token for token in argv if token != name], name in argv


def _take_value(argv: list[str], name: str, default: str | None = None) -> tuple[list[str], str | None]:
    """`argv` without `name VALUE`, and the value; None when the option is absent."""
    if name not in argv:
        return argv, None
    at = argv.index(name)
    following = argv[at + 1 : at + 2]
    if following and not following[0].startswith("--"):
        return argv[:at] + argv[at + 2 :], following[0]
    if default is None:
        raise ConfigError(f"{name} needs a value", fix=f"write {name} VALUE")
    return argv[:at] + argv[at + 1 :], default


def _nothing_left(command: str, argv: list[str]) -> None:
    if argv:
        raise ConfigError(f"config {command}: '{argv[0]}' is not understood", fix=f"`tunesmith config {command}`")


_COMMANDS: dict[str, Callable[[list[str]], int]] = {"show": _show, "schema": _schema, "reference": _reference}
