"""Training files: YAML and JSON, each key with the line it stands on.

Only the *text* of scalars is kept; `cast.py` reads it by the type of the key. YAML is composed to nodes and never
constructed, so a tag such as `!!python/object` cannot run anything. JSON is scanned on its own, since YAML refuses
the tabs with which JSON is often indented. The same key given twice is an error in both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, nearest

SUFFIXES = (".yaml", ".yml", ".json")
_MAX_DEPTH = 30
_QUOTES = ("'", '"', "|", ">")
_SPACE = re.compile(r"[ \t\r\n]*")
_NULL_TEXTS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True)
class Setting:
    """One key as somebody wrote it: `raw` is text, None, a list, or a mapping; `where` is `file:line` or the flag."""

    key: str
    raw: Any
    where: str
    kind: str


def read_settings(path: Path) -> list[Setting]:
    """The settings of a YAML or JSON file, in order.

    Raises: ConfigError when the file is missing, unreadable, malformed, not a mapping, or names a key twice.
    """
    text = _read_text(path)
    pairs = _json_pairs(path, text) if path.suffix.lower() == ".json" else _yaml_pairs(path, text)
    lines: dict[str, int] = {}
    settings = []
    for key, raw, line in pairs:
        if key in lines:
            raise ConfigError(
                f"{key} is set twice",
                where=f"{path}:{lines[key]} and {path}:{line}",
                fix="keep one of the two lines",
            )
        lines[key] = line
        settings.append(Setting(key, raw, f"{path}:{line}", "file"))
    return settings


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise _missing(path) from None
    except UnicodeDecodeError as err:
        raise ConfigError(
            f"{path} is not UTF-8 text", where=f"{path}, byte {err.start}", fix="save the file as UTF-8"
        ) from None
    except OSError as err:
        raise ConfigError(f"{path} cannot be read", why=str(err.strerror)) from None


def _missing(path: Path) -> ConfigError:
    folder = path.parent
    if not folder.is_dir():
        return ConfigError(
            f"there is no configuration file {path}",
            why=f"the folder {folder} does not exist",
            fix=f"give a path that exists; the working directory is {Path.cwd()}",
        )
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES)
    close = nearest(path.name, names, 1)
    if close:
        fix = f"Did you mean '{folder / close[0]}'?"
    elif names:
        fix = f"{folder} has: {', '.join(names[:10])}"
    else:
        fix = f"{folder.resolve()} holds no YAML or JSON file; the working directory is {Path.cwd()}"
    return ConfigError(f"there is no configuration file {path}", fix=fix)


def _yaml_pairs(path: Path, text: str) -> Iterator[tuple[str, Any, int]]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        raise ConfigError(
            "the file is not valid YAML",
            where=f"{path}:{mark.line + 1}, column {mark.column + 1}" if mark else str(path),
            why=", ".join(part for part in (err.context, err.problem) if part),
            fix=_yaml_advice(text, mark.line if mark else 0),
        ) from None
    except yaml.YAMLError as err:
        raise ConfigError("the file is not valid YAML", where=str(path), why=str(err)) from None
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise _not_a_mapping(path, node.start_mark.line + 1)
    yield from _node_pairs(path, node, 0)


def _yaml_advice(text: str, line: int) -> str:
    lines = text.splitlines()
    near = lines[max(0, line - 1) : line + 1]
    if any("\t" in each for each in near):
        return "indent with spaces: YAML does not allow tabs"
    if any(re.match(r"\s*[\w-]+:[^\s]", each) for each in near):
        return "put a space after the colon, `key: value`"
    return "each line is `key: value`; put text with `: `, `#`, `{` or `%` in quotes"


def _node_pairs(path: Path, node: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
    """Key, raw value and line of each entry of a mapping node; `<<` merges fill in what is not given."""
    if depth > _MAX_DEPTH:
        raise _too_deep(path, node)
    merged: list[tuple[str, Any, int]] = []
    own: set[str] = set()
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key_node.tag == "tag:yaml.org,2002:merge":
            sources = value_node.value if value_node.id == "sequence" else [value_node]
            merged += [pair for source in sources for pair in _node_pairs(path, source, depth + 1)]
            continue
        own.add(key)
        yield key, _node_value(path, value_node, depth, typed=False), line
    for key, raw, line in merged:
        if key not in own:
            own.add(key)
            yield key, raw, line


def _node_value(path: Path, node: Any, depth: int, *, typed: bool) -> Any:
    """A node as plain data. Scalars inside mappings are typed at once, since no key says what they should be."""
    where = f"{path}:{node.start_mark.line + 1}"
    if depth > _MAX_DEPTH:
        raise _too_deep(path, node)
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        raise ConfigError(
            f"the tag {node.tag} is not allowed", where=where, why="a training file holds plain values only"
        )
    if node.id == "scalar":
        plain = node.style not in _QUOTES
        if typed:
            return typed_scalar(node.value, plain)
        return None if plain and node.value in _NULL_TEXTS else node.value
    if node.id == "sequence":
        return [_node_value(path, item, depth + 1, typed=typed) for item in node.value]
    return {str(key.value): _node_value(path, value, depth + 1, typed=True) for key, value in node.value}


def _too_deep(path: Path, node: Any) -> ConfigError:
    return ConfigError("the value is nested too deeply", where=f"{path}:{node.start_mark.line + 1}")


def typed_scalar(text: str, plain: bool = True) -> Any:
    """A scalar inside a mapping: what JSON would make of it, `1e-6` included; quoted text stays text."""
    if not plain:
        return text
    if text in _NULL_TEXTS:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _json_pairs(path: Path, text: str) -> Iterator[tuple[str, Any, int]]:
    """Key, raw value and line of each entry of the outermost JSON object."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as err:
        raise ConfigError(
            "the file is not valid JSON",
            where=f"{path}:{err.lineno}, column {err.colno}",
            why=err.msg,
            fix="check the commas and quotes near that place; JSON has no comments and no comma after the last entry",
        ) from None
    if not isinstance(whole, dict):
        raise _not_a_mapping(path, 1)
    yield from _scan_object(text, text.index("{") + 1)


def _scan_object(text: str, at: int) -> Iterator[tuple[str, Any, int]]:
    """The entries of a valid JSON object whose first entry is looked for from `at`."""
    decoder = json.JSONDecoder()
    while True:
        at = _skip_space(text, at)
        if text[at] == "}":
            return
        line = text.count("\n", 0, at) + 1
        key, at = scanstring(text, at + 1)
        start = _skip_space(text, _skip_space(text, at) + 1)
        value, at = decoder.raw_decode(text, start)
        yield key, _json_raw(value, text[start:at]), line
        at = _skip_space(text, at)
        if text[at] == ",":
            at += 1


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _json_raw(value: Any, source: str) -> Any:
    """Numbers and booleans as their text, like the scalars of YAML; the rest as it is."""
    return source if isinstance(value, (bool, int, float)) else value


def _not_a_mapping(path: Path, line: int) -> ConfigError:
    return ConfigError(
        "the file does not hold settings",
        where=f"{path}:{line}",
        fix="write one `key: value` per line",
    )
