"""The arguments of a call as pieces of a grammar, for formats that do not write them as one JSON object.

What a schema demands is held as far as reading can tell it: names, which of them must be there, the type of a value,
and the choices of an `enum`. Limits of texts (`pattern`, `maxLength`) are not held between tags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.render.tools.pieces import Form, OneOf, Pattern, Piece, Repeated, Row, Until

FREE_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
"""Names of arguments of a function that states none."""
_MARK = "\0"


def kinds_of(schema: Any) -> set[str]:
    """The types that a parameter's schema names; none when it does not say."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return {kind} if isinstance(kind, str) else set(kind or ())


def can_be_text(schema: Any) -> bool:
    """Whether a value may be text: where the schema does not say, it may."""
    kinds = kinds_of(schema)
    return not kinds or "string" in kinds


def text_choices(schema: Any) -> list[str]:
    """The texts that a schema leaves to choose from; none when it leaves the choice free."""
    choices = schema.get("enum", [schema["const"]] if "const" in schema else []) if isinstance(schema, Mapping) else []
    return list(choices) if choices and all(isinstance(choice, str) for choice in choices) else []


def in_tags(
    parameters: Mapping[str, Any], opening: str, closing: str, *, words_of_python: bool = False
) -> tuple[Piece, ...]:
    """Arguments between tags of their own, one after the other.

    Args:
        parameters: the schema of the function's arguments.
        opening: what stands in front of a value, `\\0` in the place of its name.
        closing: what stands after it.
        words_of_python: true, false and null are written as Python does.
    """
    before, _, after = opening.partition(_MARK)

    def argument(name: str, schema: Any) -> Form:
        return (f"{before}{name}{after}", *_tagged_value(schema, parameters, closing, words_of_python))

    return row(parameters, argument, (before, Pattern(FREE_NAME), after, Until(closing)))


def row(
    parameters: Mapping[str, Any], argument: Callable[[str, Any], Form], free: Form, separator: str = ""
) -> tuple[Piece, ...]:
    """The arguments that a schema states, in its order; any number of `free` ones when it states none."""
    properties = parameters.get("properties")
    if not isinstance(properties, Mapping):
        return (Repeated(free, separator),)
    required = parameters.get("required") or ()
    items = tuple((argument(name, schema), name in required) for name, schema in properties.items())
    return (Row(items, separator),) if items else ()


def are_names(parameters: Mapping[str, Any], regex: str) -> bool:
    """Whether the format can write the name of each argument."""
    properties = parameters.get("properties")
    return all(re.fullmatch(regex, name) for name in (properties if isinstance(properties, Mapping) else ()))


def json_piece(schema: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """A parameter's schema as one that stands alone, with the definitions that it may refer to."""
    shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    return {**shared, **schema}


def _tagged_value(schema: Any, parameters: Mapping[str, Any], closing: str, words_of_python: bool) -> Form:
    choices = text_choices(schema)
    if can_be_text(schema):
        is_choice = choices and kinds_of(schema) <= {"string"}
        return (OneOf(tuple((choice + closing,) for choice in choices)),) if is_choice else (Until(closing),)
    if words_of_python and kinds_of(schema) <= {"boolean", "null"}:
        return (words_for(kinds_of(schema)), closing)
    return (json_piece(schema, parameters), closing)


def words_for(kinds: set[str]) -> OneOf:
    """Python's words for truth values and nothing."""
    words = (["True", "False"] if "boolean" in kinds else []) + (["None"] if "null" in kinds else [])
    return OneOf(tuple((word,) for word in words))
