"""Rewards for answers that are JSON: that they are, that they equal a value, that a schema accepts them.

Each gives 1 or 0. For partial credit name two of them with weights, say `json` 0.2 and `json_schema` 0.8.
An answer is JSON when all of it is, or all of it is one ```json block; NaN and Infinity are no JSON (RFC 8259).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, DataError
from tunesmith.train.rewards.checks import CheckReward
from tunesmith.train.rewards.sample import Sample, shorten

_FENCED = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n[ \t]*```\Z", re.DOTALL | re.IGNORECASE)
NO_JSON = object()
"""What `read_json` returns for a text that is no JSON (None is JSON: `null`)."""


def valid_json(name: str) -> CheckReward:
    """Whether the answer is JSON."""
    return CheckReward(name, lambda sample, _: read_json(sample.completion_text) is not NO_JSON)


def json_equal(name: str, columns: tuple[str, ...]) -> CheckReward:
    """Whether the answer is the column's JSON value; order of keys and forms of a number (1 = 1.0) do not count."""

    def prepare(value: Any, where: str) -> Any:
        return _read_column(value, where) if isinstance(value, str) else value

    def judge(sample: Sample, expected: Any) -> bool:
        given = read_json(sample.completion_text)
        return given is not NO_JSON and same_json(given, expected)

    return CheckReward(name, judge, columns, prepare)


def json_schema(name: str, column: str, file: Path | None) -> CheckReward:
    """Whether the answer is JSON that a schema accepts: that of a file, or that in the row's column.

    Raises: ConfigError when jsonschema is not installed or the file cannot be read; DataError when it holds no schema.
    """
    schemas = _Schemas()

    def judge(sample: Sample, validator: Any) -> bool:
        given = read_json(sample.completion_text)
        return given is not NO_JSON and schemas.accepts(validator, given, str(file or sample.ref))

    def prepare(value: Any, where: str) -> Any:
        return schemas.validator(_read_column(value, where) if isinstance(value, str) else value, where)

    if file is None:
        return CheckReward(name, judge, (column,), prepare)
    try:
        of_file = schemas.validator(json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError) as err:
        raise ConfigError(f"the JSON schema {file} cannot be read: {err}", where=f"reward {name}") from err
    return CheckReward(name, lambda sample, _: judge(sample, of_file))


class _Schemas:
    """Validators by schema. References stay inside a schema: nothing is ever fetched."""

    def __init__(self) -> None:
        try:
            import jsonschema
            import referencing
        except ImportError as err:
            raise ConfigError(
                "the reward json_schema needs the package jsonschema", fix="pip install 'tunesmith[rewards]'"
            ) from err
        self._library, self._no_other_files = jsonschema, referencing.Registry()
        self._unresolvable = referencing.exceptions.Unresolvable
        self._validators: dict[str, Any] = {}

    def validator(self, schema: Any, where: str) -> Any:
        """The validator of a schema, made once. Raises: DataError when it is none."""
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            if not isinstance(schema, dict | bool):
                raise DataError(f"{shorten(key, 60)} is no JSON schema", where=where, fix="give a JSON object")
            kind = self._library.validators.validator_for(schema, default=self._library.Draft202012Validator)
            try:
                kind.check_schema(schema)
            except self._library.SchemaError as err:
                raise DataError(f"the JSON schema is not valid: {err.message}", where=where) from err
            self._validators[key] = kind(schema, registry=self._no_other_files)
        return self._validators[key]

    def accepts(self, validator: Any, value: Any, where: str) -> bool:
        """Whether the schema accepts the value. Raises: DataError when it refers to something outside itself."""
        try:
            return validator.is_valid(value)
        except self._unresolvable as err:
            raise DataError(
                f"the JSON schema refers to something outside itself: {err}",
                where=where,
                why="nothing is fetched while rewards are given",
                fix='put the referenced part into "$defs" of the schema',
            ) from err


def read_json(text: str) -> Any:
    """The JSON value that a text is, alone or as one ```json block; `NO_JSON` when it is none."""
    stripped = text.strip()
    fenced = _FENCED.match(stripped)
    try:
        return json.loads(fenced[1] if fenced else stripped, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return NO_JSON


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _read_column(text: str, where: str) -> Any:
    value = read_json(text)
    if value is NO_JSON:
        raise DataError(f"this is no JSON: {shorten(text, 60)}", where=where, fix="correct the row")
    return value


def same_json(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 equals 1.0, but not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same_json(a, b) for a, b in zip(left, right, strict=True))
    return left == right
