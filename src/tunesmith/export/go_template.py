"""A template of the table in Go's template language, as Ollama runs it; and an evaluator for what is written here.

Ollama gives a template `.Messages` (each with .Role and .Content) and `.System` (all system texts). Every action trims
the whitespace around it and all text is written as string literals, so what is rendered does not depend on line breaks.
The evaluator knows exactly the actions that are written here and fails on any other: it is a check, not an engine.
Reference: https://pkg.go.dev/text/template
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.render.slots import SlotDialect
from tunesmith.types import Message

_ACTION = re.compile(r"\{\{- (.*?) -\}\}\s*", re.DOTALL)


def go_template(dialect: SlotDialect, bos: str, eos: str, *, adds_bos: bool) -> str | None:
    """The layout of `dialect` in Go; None where Go cannot say it.

    Go has no function that strips whitespace, so words are written as they come, also for families whose own templates
    strip them.

    Args:
        bos, eos: the tokenizer's begin and end token, empty when it has none.
        adds_bos: whoever tokenizes puts the begin token in front, so the template leaves that one out.
    """
    template = dialect.template
    if dialect.settings.preserve_thinking:
        return None
    parts = _Parts(bos, eos, leaves_first_bos=adds_bos and bool(bos))
    is_turn = template.system_place == "turn"
    end = "" if template.end_opens_next_turn else dialect.end_text
    system = parts.slot(template.system, ".Content") if is_turn else ""
    merged = "" if is_turn else _if("and $.System (eq $i $taker)", parts.slot(template.system, "$.System"))
    answer = parts.slot(template.answer, ".Content")
    lines = [
        "{{- $taker := -1 -}}",
        "{{- range $i, $m := .Messages -}}",
        _if('eq $m.Role "user"' if template.system_place != "first_user" else 'and (eq $m.Role "user") (eq $taker -1)',
            "{{- $taker = $i -}}"),
        "{{- end -}}",
        parts.literal(template.prefix, is_start=True),
        "{{- range $i, $m := .Messages -}}",
        _if('eq $m.Role "system"', system),
        _if('eq $m.Role "user"', parts.slot(template.user, ".Content", merged)),
        _if('eq $m.Role "assistant"', "\n".join(
            [parts.literal(template.header), answer, parts.literal(end), parts.literal(template.gap)])),
        "{{- end -}}",
        parts.literal(template.header),
        parts.literal(_opened_thought(dialect, bos, eos)),
    ]  # fmt: skip
    text = "\n".join(line for part in lines for line in part.split("\n") if line)
    return None if '"""' in text else text


@dataclass(frozen=True)
class _Parts:
    """Slots as Go actions. `leaves_first_bos`: the begin token in front of everything is not written."""

    bos: str
    eos: str
    leaves_first_bos: bool

    def literal(self, slot: str, *, is_start: bool = False) -> str:
        if is_start and self.leaves_first_bos:
            slot = slot.removeprefix("{bos}")
        text = slot.replace("{bos}", self.bos).replace("{eos}", self.eos)
        return "{{- " + json.dumps(text, ensure_ascii=False) + " -}}" if text else ""

    def slot(self, slot: str, expression: str, in_front: str = "") -> str:
        """Literal text around an expression; `in_front` goes directly before it."""
        before, after = slot.split("{content}")
        word = "$m.Content" if expression == ".Content" else expression
        return "\n".join((self._opening(before), in_front, "{{- " + word + " -}}", self.literal(after)))

    def _opening(self, before: str) -> str:
        """The text in front of somebody's words; a begin token there is left out at the first user turn (Llama 2)."""
        if not (self.leaves_first_bos and before.startswith("{bos}")):
            return self.literal(before)
        return _if("ne $i $taker", self.literal("{bos}")) + "\n" + self.literal(before.removeprefix("{bos}"))


def _opened_thought(dialect: SlotDialect, bos: str, eos: str) -> str:
    """What a generation prompt already holds of a thought."""
    header = dialect.template.header.replace("{bos}", bos).replace("{eos}", eos)
    prompt = dialect.prompt_text([Message("user", "x")])
    return prompt[prompt.rindex(header) + len(header) :] if header else ""


def _if(condition: str, body: str) -> str:
    return f"{{{{- if {condition} -}}}}\n{body}\n{{{{- end -}}}}" if body.strip() else ""


def render_go(template: str, messages: Sequence[Message]) -> str:
    """What Ollama sends to the model for `messages`, which include the system text. Raises: ValueError for any action
    or text that `go_template` does not write."""
    actions = _ACTION.findall(template)
    if _ACTION.sub("", template):
        raise ValueError(f"text outside of actions: {_ACTION.sub('', template)[:40]!r}")
    scope = _Scope(messages, "\n\n".join(message.content for message in messages if message.role == "system"))
    position = _run(actions, 0, scope, active=True)
    if position != len(actions):
        raise ValueError("an end without a beginning")
    return "".join(scope.out)


@dataclass
class _Scope:
    """Variables, and what was written so far."""

    messages: Sequence[Message]
    system: str
    index: int = -1
    taker: int = -1
    out: list[str] = field(default_factory=list)

    def value(self, word: str) -> object:
        """The value of one word of an expression."""
        if word.startswith('"'):
            return json.loads(word)
        values = {"$i": self.index, "$taker": self.taker, "$.System": self.system}
        if word in values:
            return values[word]
        if word in ("$m.Role", "$m.Content"):
            message = self.messages[self.index]
            return message.role if word == "$m.Role" else message.content
        return int(word)

    def holds(self, condition: str) -> bool:
        """Whether a condition is true: `eq A B`, `ne A B`, `and X Y` with X and Y in brackets or single words."""
        operator, left, right = re.findall(r"\([^()]*\)|\"[^\"]*\"|\S+", condition)
        values = [self.holds(word[1:-1]) if word.startswith("(") else self.value(word) for word in (left, right)]
        if operator == "eq":
            return values[0] == values[1]
        if operator == "ne":
            return values[0] != values[1]
        if operator == "and":
            return bool(values[0]) and bool(values[1])
        raise ValueError(f"unknown condition: {condition}")


def _run(actions: Sequence[str], position: int, scope: _Scope, *, active: bool) -> int:
    """Carry out actions from `position` to the `end` of their block; returns the place of that end."""
    while position < len(actions) and actions[position] != "end":
        action = actions[position]
        if action.startswith("if "):
            position = _run(actions, position + 1, scope, active=active and scope.holds(action[3:]))
        elif action.startswith("range "):
            position = _loop(actions, position + 1, scope, active=active)
        elif active:
            _carry_out(action, scope)
        position += 1
    return position


def _loop(actions: Sequence[str], start: int, scope: _Scope, *, active: bool) -> int:
    if actions[start - 1] != "range $i, $m := .Messages":
        raise ValueError(f"unknown loop: {actions[start - 1]}")
    end = _run(actions, start, scope, active=False)
    for index in range(len(scope.messages)) if active else ():
        scope.index = index
        _run(actions, start, scope, active=True)
    return end


def _carry_out(action: str, scope: _Scope) -> None:
    assigned = re.fullmatch(r"\$taker :?= (\S+)", action)
    if assigned:
        scope.taker = int(str(scope.value(assigned[1])))
    else:
        scope.out.append(str(scope.value(action)))
