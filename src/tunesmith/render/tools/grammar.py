"""Grammars of answers that call tools, in the Lark dialect of llguidance.

A format says how its calls look as a sequence of pieces: literal text, JSON of a schema, and so on. Which text is a
special token depends on the vocabulary, so the renderer turns the pieces into Lark: special tokens by number, the rest
as strings. JSON is written with one space after commas and colons, as training writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.render.tools.pieces import AnyValue, Form, OneOf, Pattern, Piece, Repeated, Row, Until

JSON_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}
"""How llguidance lays JSON out: as Python does; keywords of a schema that it cannot check are left unchecked."""

ANY_WORDS = r"(.|\n)*"


@dataclass(frozen=True, slots=True)
class CallRules:
    """The form of a format's calls.

    Attributes:
        calls: the possible forms of one call, each a sequence of pieces.
        opening: text in front of all calls.
        separator: text between two calls; None where one is all.
        closing: text after all calls.
        trigger: the text after which an answer must go on as a call; it begins the opening, or else every form.
            Empty when calls can only begin an answer.
        words: regular expression of an answer without calls, where there is no trigger.
        lead: a special token that stands between words and calls; empty where there is none.
        before, after: literal text of the layout around an answer of calls.
    """

    calls: tuple[Form, ...]
    opening: str = ""
    separator: str | None = None
    closing: str = ""
    trigger: str = ""
    words: str = ANY_WORDS
    lead: str = ""
    before: str = ""
    after: str = ""


def call_schema(tools: Mapping[str, Mapping[str, Any]], arguments_key: str = "arguments") -> dict[str, Any]:
    """The schema of `{"name": ..., "arguments": {...}}` for functions (name: parameters)."""
    choices = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, arguments_key: object_schema(parameters)},
            "required": ["name", arguments_key],
            "additionalProperties": False,
        }
        for name, parameters in tools.items()
    ]
    return {"anyOf": choices} if len(choices) > 1 else choices[0]


def list_schema(call: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of one such call, or of a list of several."""
    one = call.get("anyOf", [call])
    return {"anyOf": [*one, {"type": "array", "items": call, "minItems": 2}]}


def object_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments; a function that states none takes any object."""
    return {"type": "object", **parameters}


def grammar_text(
    rules: CallRules,
    thought: tuple[str, str] | None,
    token_id: Callable[[str], int | None],
    *,
    required: bool,
) -> str:
    """The grammar.

    Args:
        rules: the form of the calls.
        thought: (opening, closing) of a thought that comes first, the opening empty when the prompt holds it.
        token_id: the id of a text that is one token beside the ordinary vocabulary, else None.
        required: the answer is calls; otherwise words may stand in front of them, or instead.
    """
    writer = _Writer(token_id)
    answer = _required(rules, writer) if required else _optional(rules, writer)
    if thought is not None:
        answer = f"{'thought?' if thought[0] else 'thought'} ({answer})"
        writer.add_thought(*thought)
    return "\n".join(["%llguidance {}", f"start: {answer}", *writer.rules]) + "\n"


def _required(rules: CallRules, writer: _Writer) -> str:
    writer.rules.append(f"call: {writer.forms(rules.calls)}")
    return _joined(
        writer.text(rules.before + rules.opening),
        "call",
        _repeat(rules, writer),
        writer.text(rules.closing + rules.after),
    )


def _optional(rules: CallRules, writer: _Writer) -> str:
    calls = _required(rules, writer)
    if not rules.trigger:
        writer.rules.append(f"WORDS: /{rules.words}/")
        return f"WORDS? | {calls}" + (f" | WORDS {writer.text(rules.lead)} {calls}" if rules.lead else "")
    writer.rules.append(f"WORDS: /{ANY_WORDS}/")
    if writer.text(rules.trigger).startswith("<["):  # words hold no such token, so they end where calls begin
        return f"WORDS? | WORDS? {calls}"
    writer.rules.append(f"led[lazy]: /{ANY_WORDS}{_escape(rules.trigger)}/")
    return f"WORDS? | led {_after_trigger(rules, writer)}"


def _after_trigger(rules: CallRules, writer: _Writer) -> str:
    """The calls, without the trigger with which they begin."""
    size, closing = len(rules.trigger), writer.text(rules.closing + rules.after)
    if rules.opening:
        return _joined(writer.text(rules.opening[size:]), "call", _repeat(rules, writer), closing)
    first = [(str(form[0])[size:], *form[1:]) for form in rules.calls]
    writer.rules.append(f"first: {writer.forms(first)}")
    return _joined("first", _repeat(rules, writer), closing)


def _repeat(rules: CallRules, writer: _Writer) -> str:
    return "" if rules.separator is None else f"({writer.text(rules.separator)} call)*"


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _escape(text: str) -> str:
    """`text` for a regular expression between slashes."""
    return re.sub(r"([^\w\s<>:\u0080-\U0010ffff])", r"\\\1", text).replace("\n", "\\n")


class _Writer:
    """Turns pieces into Lark, and collects the rules that they need."""

    def __init__(self, token_id: Callable[[str], int | None]) -> None:
        self._token_id = token_id
        self.rules: list[str] = []
        self._names: dict[tuple[str, str], str] = {}

    def forms(self, forms: Sequence[Form]) -> str:
        return " | ".join(map(self.form, forms))

    def form(self, form: Form) -> str:
        """Pieces one after the other; the empty text for none."""
        return _joined(*map(self.piece, form)) or '""'

    def piece(self, piece: Piece) -> str:
        if isinstance(piece, str):
            return self.text(piece)
        if isinstance(piece, Mapping):
            return "%json " + json.dumps({"x-guidance": JSON_LAYOUT, **piece}, ensure_ascii=False)
        if isinstance(piece, Pattern):
            return self._terminal(f"/{piece.regex}/")
        if isinstance(piece, Until):
            return self._until(piece.end)
        if isinstance(piece, OneOf):
            return self._rule(self.forms(piece.forms))
        if isinstance(piece, Repeated):
            return self._repeated(self._rule(self.form(piece.form)), piece.separator)
        if isinstance(piece, Row):
            return self._row(piece)
        return self._any_value(piece)

    def _rule(self, body: str) -> str:
        """The name of a rule with this body."""
        return self._named("part", "", body)

    def _terminal(self, body: str, mark: str = "") -> str:
        """The name of a terminal with this body; `mark` says how it ends."""
        return self._named("TEXT" if not mark else "text", mark, body)

    def _named(self, kind: str, mark: str, body: str) -> str:
        known = self._names.get((mark, body))
        if known is None:
            known = self._names[mark, body] = f"{kind}{len(self._names)}"
            self.rules.append(f"{known}{mark}: {body}")
        return known

    def _until(self, end: str) -> str:
        shown = self.text(end)
        if shown.startswith("<["):  # text holds no such token, so it ends there
            return f"{self._terminal(f'/{ANY_WORDS}/')}? {shown}"
        return self._terminal(f"/{ANY_WORDS}{_escape(end)}/", "[lazy]")

    def _repeated(self, item: str, separator: str) -> str:
        if not separator:
            return f"{item}*"
        return self._rule(f'"" | {item} ({self.text(separator)} {item})*')

    def _row(self, row: Row) -> str:
        """From the last item to the first: what may follow when nothing stands before, and when something does."""
        first = more = '""'
        separator = self.text(row.separator)
        for form, required in reversed(row.items):
            item = self._rule(self.form(form))
            begins, goes_on = f"{item} {more}", _joined(separator, item, more)
            first = self._rule(begins if required else f"{begins} | {first}")
            more = self._rule(goes_on if required else f"{goes_on} | {more}")
        return first

    def _any_value(self, value: AnyValue) -> str:
        plain, key = self.forms(value.plain.forms), self.form(value.key)
        if "any_value" not in self._names.values():
            self._names["", "any_value"] = "any_value"
            pair = f'{key} ":" any_value'
            self.rules += [
                f"any_value: {plain} | any_list | any_object",
                'any_list: "[" "]" | "[" any_value ("," any_value)* "]"',
                'any_object: "{" "}" | "{" any_pair ("," any_pair)* "}"',
                f"any_pair: {pair}",
            ]
        return "any_value"

    def text(self, text: str) -> str:
        """Literal text, its special tokens by number; empty for none."""
        parts = []
        for part in re.split(r"(<[^<>\s]+>|\[[A-Z_]+\])", text):
            number = self._token_id(part) if part else None
            if number is not None:
                parts.append(f"<[{number}]>")
            elif part:
                parts.append(json.dumps(part, ensure_ascii=False))
        return " ".join(parts)

    def add_thought(self, opening: str, closing: str) -> None:
        """The rule `thought`: from its opening to the line breaks after its closing."""
        shown = self.text(closing)
        if shown.startswith("<["):
            self.rules.append(f"thought: {self.text(opening)} /{ANY_WORDS}/ {shown} /\\n*/")
        else:
            self.rules.append("thought: thought_text /\\n*/")
            self.rules.append(f"thought_text[lazy]: /{_escape(opening)}{ANY_WORDS}{_escape(closing)}/")
