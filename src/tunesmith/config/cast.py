"""From what was written to a typed, checked value; the same way for YAML, JSON, flags and Python callers.

Scalars are cast from their *text* by the type of the key, not by YAML's own guess: YAML 1.1 reads `1e-5` as a
string, `no` as false and `010` as eight, and none of that is what the author of a training file means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from tunesmith.config.spec import FieldSpec, Kind
from tunesmith.errors import ConfigError, did_you_mean

_TRUE = frozenset({"true", "yes", "on", "1", "y", "t"})
_FALSE = frozenset({"false", "no", "off", "0", "n", "f"})
_NULL = frozenset({"", "null", "none", "~"})


class _Mismatch(ValueError):
    """The text cannot be read as this kind of value."""


def cast(spec: FieldSpec, raw: Any, where: str = "") -> Any:
    """The value of `raw` for the key of `spec`.

    Args:
        spec: the key.
        raw: text, None, a list of such, or a mapping; plain Python values are accepted too.
        where: where it was written, for messages.

    Raises: ConfigError when the type, a bound or a choice is not met.
    """
    value = _newer(spec, raw)
    if _is_null(spec, value):
        return _null(spec, where)
    for kind in _kinds_to_try(spec, value):
        try:
            typed = _READERS[kind](value)
        except _Mismatch:
            continue
        return _checked(spec, typed, raw, where)
    raise _wrong(spec, raw, where)


def _newer(spec: FieldSpec, raw: Any) -> Any:
    """`raw` with Python scalars as text and older spellings of values replaced."""
    if isinstance(raw, bool):
        raw = "true" if raw else "false"
    elif isinstance(raw, (int, float)):
        raw = repr(raw)
    if isinstance(raw, str):
        raw = raw.strip()
        return spec.older_values.get(raw.lower(), raw)
    return raw


def _is_null(spec: FieldSpec, value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, str) or value.lower() not in _NULL:
        return False
    named = value.lower() in (str(choice) for choice in spec.choices)
    return not named and (spec.optional or spec.is_list or value == "")


def _null(spec: FieldSpec, where: str) -> Any:
    if spec.optional:
        return None
    if spec.is_list:
        return ()
    if spec.default == "" and spec.kinds == ("str",):
        return ""
    raise ConfigError(
        f"{spec.name} has no value",
        where=where,
        why=f"expected {spec.expected()}",
        fix=f"give a value, or remove the line to use the default, {show(spec.default)}",
    )


def _kinds_to_try(spec: FieldSpec, value: Any) -> list[Kind]:
    """The kinds of the key, the narrowest first; where text is allowed too, only true and false are booleans."""
    kinds = sorted(spec.kinds, key=_ORDER.index)
    if "str" in kinds and str(value).lower() not in ("true", "false"):
        kinds = [kind for kind in kinds if kind != "bool"]
    return kinds


def _read_bool(value: Any) -> bool:
    text = str(value).lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _Mismatch


def _read_int(value: Any) -> int:
    if not isinstance(value, str):
        raise _Mismatch
    try:
        return int(value)
    except ValueError:
        number = _read_float(value)
    if not number.is_integer():
        raise _Mismatch
    return int(number)


def _read_float(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (str, int, float)) else math.nan
    except ValueError:
        raise _Mismatch from None
    if not math.isfinite(number):
        raise _Mismatch
    return number


def _read_str(value: Any) -> str:
    if not isinstance(value, str):
        raise _Mismatch
    return value


def _read_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise _Mismatch from None
    if not isinstance(value, dict):
        raise _Mismatch
    return value


def _pieces(value: Any) -> list[str]:
    """The elements of a list: of a YAML list, a JSON list in text, or text with commas."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = value.strip("[]")
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        raise _Mismatch
    if any(item is None or isinstance(item, (list, tuple, dict)) for item in value):
        raise _Mismatch
    return [text for text in (str(item).strip() for item in value) if text]


def _read_strs(value: Any) -> tuple[str, ...]:
    return tuple(_pieces(value))


def _read_floats(value: Any) -> tuple[float, ...]:
    return tuple(_read_float(piece) for piece in _pieces(value))


_READERS: dict[Kind, Callable[[Any], Any]] = {
    "bool": _read_bool,
    "int": _read_int,
    "float": _read_float,
    "dict": _read_dict,
    "floats": _read_floats,
    "strs": _read_strs,
    "str": _read_str,
}
_ORDER: list[Kind] = list(_READERS)


def _checked(spec: FieldSpec, typed: Any, raw: Any, where: str) -> Any:
    """`typed`, once its bounds and choices hold."""
    items = typed if isinstance(typed, tuple) else (typed,)
    for item in items:
        if spec.choices and not isinstance(item, bool) and item not in spec.choices:
            raise _wrong(spec, raw, where, item)
        if isinstance(item, (int, float)) and not isinstance(item, bool) and not _in_bounds(spec, item):
            raise _wrong(spec, raw, where)
    return typed


def _in_bounds(spec: FieldSpec, number: float) -> bool:
    return (
        (spec.ge is None or number >= spec.ge)
        and (spec.gt is None or number > spec.gt)
        and (spec.le is None or number <= spec.le)
        and (spec.lt is None or number < spec.lt)
    )


def _wrong(spec: FieldSpec, raw: Any, where: str, item: Any = None) -> ConfigError:
    hint = did_you_mean(str(item), map(str, spec.choices)) if item is not None else ""
    fix = hint or f"the default is {show(spec.default)}"
    given = "***" if spec.secret else show(raw)
    return ConfigError(f"{spec.name} cannot be {given}", where=where, why=f"expected {spec.expected()}", fix=fix)


def show(value: Any) -> str:
    """A value as it would be written in a YAML file: `null`, `true`, `a,b`, `5e-05`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return ",".join(show(item) for item in value) or "(none)"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value) if value != "" else '""'
