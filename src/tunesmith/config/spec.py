"""One option, described once: type, default, bounds, choices, help in two languages, and what it may mean today.

A configuration key is a dataclass field made by `option(...)` in one of `config/fields/*.py`. Everything else is
derived from it: casting and checking (`cast.py`), the command line (`load.py`), the reference page and the JSON
schema (`reference.py`), the forms of the web page. Annotations are read as text, so no type is evaluated at import
and the whole vocabulary costs a few milliseconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["bool", "int", "float", "str", "dict", "strs", "floats"]
"""What one value can be; `strs` and `floats` are lists, written as YAML lists or with commas."""

_KINDS: dict[str, Kind] = {
    "bool": "bool",
    "int": "int",
    "float": "float",
    "str": "str",
    "Mapping[str, Any]": "dict",
    "tuple[str, ...]": "strs",
    "tuple[float, ...]": "floats",
}

_METADATA_KEY = "option"


@dataclass(frozen=True)
class Group:
    """A family of options: the heading they stand under, and the verbs that read them (none named: all)."""

    name: str
    en: str
    zh: str
    verbs: tuple[str, ...] = ()


@dataclass(frozen=True)
class FieldSpec:
    """Everything known about one key. Made by `option`; completed with name, type and group by `read_fields`.

    Attributes:
        choices: the values allowed; for lists, the elements allowed.
        ge, gt, le, lt: bounds, each inclusive (`e`) or exclusive (`t`).
        later: the capability does not exist yet; what to do instead. Any value but `default` and `off` is refused.
        later_choices: single choices that do not exist yet, each with what to do instead.
        off: values that switch a `later` option off and are therefore accepted.
        noop: accepted with any valid value, without effect; why.
        aliases: other spellings of the key; those in `short` are as good as the key itself, the others are older
            ones and are noted. older_values: older spellings of values.
        methods, stages: the finetuning types and stages that read the key (none named: all).
        verbs: the verbs that read the key (none named: those of the group, and there: all).
        secret: never shown or written.
    """

    default: Any
    en: str
    zh: str
    choices: tuple[str | int, ...] = ()
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    later: str = ""
    later_choices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    off: tuple[Any, ...] = ()
    noop: str = ""
    aliases: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    older_values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    methods: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    secret: bool = False
    name: str = ""
    kinds: tuple[Kind, ...] = ()
    optional: bool = False
    group: Group = Group("", "", "")

    @property
    def is_list(self) -> bool:
        """Whether the key holds several values."""
        return "strs" in self.kinds or "floats" in self.kinds

    def read_by(self, verb: str) -> bool:
        """Whether `verb` uses this key."""
        verbs = self.verbs or self.group.verbs
        return not verbs or verb in verbs or verbs == ("*",)

    def bounds(self) -> str:
        """The bounds in words, `0 to 1`, `above 0`; empty when there are none."""
        low = f"at least {self.ge:g}" if self.ge is not None else f"above {self.gt:g}" if self.gt is not None else ""
        high = f"at most {self.le:g}" if self.le is not None else f"below {self.lt:g}" if self.lt is not None else ""
        return " and ".join(part for part in (low, high) if part)

    def expected(self) -> str:
        """What a value must be, as the end of the sentence `expected ...`."""
        if self.choices:
            names = ", ".join(str(choice) for choice in self.choices)
            text = f"any of {names}" if self.is_list else f"one of {names}"
        else:
            text = " or ".join(_KIND_WORDS[kind] for kind in self.kinds if not self._is_covered(kind))
        bounds = self.bounds()
        text += f", {bounds}" if bounds else ""
        return f"{text} (or null)" if self.optional else text

    def _is_covered(self, kind: Kind) -> bool:
        return kind == "int" and "float" in self.kinds


_KIND_WORDS: dict[Kind, str] = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "dict": "a mapping",
    "strs": "a list of names",
    "floats": "a list of numbers",
}


def option(default: Any, *, en: str, zh: str, **details: Any) -> Any:
    """A dataclass field for one configuration key.

    Args:
        default: its value when nobody sets it; None for an unset optional, () for an empty list.
        en, zh: one sentence of help in English and in Chinese.
        **details: the other attributes of `FieldSpec` (choices, bounds, later, noop, aliases, ...).
    """
    for key in ("choices", "aliases", "off", "methods", "stages", "verbs"):
        if isinstance(details.get(key), list):
            raise TypeError(f"option(): {key} must be a tuple")
    spec = FieldSpec(default=default, en=en, zh=zh, **details)
    return dataclasses.field(default=default, metadata={_METADATA_KEY: spec})


def read_fields(groups: Sequence[type]) -> dict[str, FieldSpec]:
    """The options of the given dataclasses, by name, in the order of declaration.

    Raises: TypeError for a field without `option(...)`, a type outside `_KINDS`, or a name declared twice.
    """
    specs: dict[str, FieldSpec] = {}
    for cls in groups:
        for field in dataclasses.fields(cls):
            if field.name in specs:
                raise TypeError(f"option '{field.name}' is declared twice, the second time in {cls.__name__}")
            specs[field.name] = _complete(field, cls)
    return specs


def _complete(field: dataclasses.Field[Any], cls: type) -> FieldSpec:
    spec = field.metadata.get(_METADATA_KEY)
    if spec is None:
        raise TypeError(f"{cls.__name__}.{field.name} is not declared with option(...)")
    parts = [part.strip() for part in str(field.type).split("|")]
    unknown = [part for part in parts if part != "None" and part not in _KINDS]
    if unknown:
        raise TypeError(f"{cls.__name__}.{field.name}: a configuration key cannot be of type {unknown[0]}")
    kinds = tuple(_KINDS[part] for part in parts if part != "None")
    group: Group = cls.GROUP  # type: ignore[attr-defined]
    return dataclasses.replace(spec, name=field.name, kinds=kinds, optional="None" in parts, group=group)
