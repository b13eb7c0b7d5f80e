"""Write a template of the table as a Jinja chat template, for the tools that will prompt an exported model.

The same rules as `render/slots.py`, in Jinja: slots filled with words, the system text as a turn of its own or in
front of a user's words, stripped words for some roles, thoughts out of the history. The tests render every template
both ways. Every tag strips the whitespace around it, so the line breaks below are only for readers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tunesmith.render import Renderer
from tunesmith.render.reasoning import PLAIN
from tunesmith.render.slots import SlotDialect
from tunesmith.render.template import Template, Thinking

_SYSTEM_TEXT = """\
{%%- set words = namespace(text='') -%%}
{%%- set system = namespace(text=%s) -%%}
{%%- if messages and messages[0]['role'] == 'system' -%%}
{%%- set system.text = messages[0]['content'] -%%}
{%%- endif -%%}"""

_COUNT_USERS = """\
{%- set users = namespace(all=0, seen=0) -%}
{%- for message in messages if message['role'] == 'user' -%}
{%- set users.all = loop.index -%}
{%- endfor -%}"""

_FRAME = """\
{system_text}
{prefix}
{opening}
{{%- for message in messages -%}}
{{%- if message['role'] == 'system' -%}}
{system}
{{%- elif message['role'] == 'user' -%}}
{user}
{{%- elif message['role'] == 'assistant' -%}}
{words}
{answer}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
{prompt}
{{%- endif -%}}"""


def jinja_of(renderer: Renderer) -> str | None:
    """The template of `renderer` as Jinja; None when it is not of the table, or keeps thoughts in the history."""
    dialect = renderer.dialect
    if not isinstance(dialect, SlotDialect) or dialect.settings.preserve_thinking:
        return None
    template = dialect.template
    fill = _Filler(renderer.tokenizer.bos_token or "", renderer.tokenizer.eos_token or "")
    is_turn = template.system_place == "turn"
    end = "" if template.end_opens_next_turn else template.end
    answer = [
        fill.text(template.header),
        fill.slot(template.answer, _words("words.text", template, "assistant")),
        fill.text(end),
        fill.text(template.gap),
    ]
    text = _FRAME.format(
        system_text=_SYSTEM_TEXT % _quote(str(dialect.describe()["default_system"] or "")),
        prefix=fill.text(template.prefix),
        opening=_default_system_turn(fill, template) if is_turn else _COUNT_USERS,
        system=fill.slot(template.system, _words("message['content']", template, "system")) if is_turn else "",
        user=fill.slot(template.user, _words("message['content']", template, "user"), _merged_system(fill, template)),
        words=_history_words(template.thinking),
        answer="\n".join(answer),
        prompt=fill.text(template.header) + fill.text(_opened_thought(template.thinking, dialect)),
    )
    return "\n".join(line for line in text.split("\n") if line) + "\n"


@dataclass(frozen=True)
class _Filler:
    """Slots as Jinja expressions, with the tokenizer's begin and end token in them."""

    bos: str
    eos: str

    def text(self, slot: str) -> str:
        """Literal text; empty for none."""
        text = slot.replace("{bos}", self.bos).replace("{eos}", self.eos)
        return "{{- " + _quote(text) + " -}}" if text else ""

    def slot(self, slot: str, expression: str, in_front: str = "") -> str:
        """Literal text around an expression; `in_front` is Jinja that goes directly before it."""
        before, after = slot.split("{content}")
        return "\n".join((self.text(before), in_front, "{{- " + expression + " -}}", self.text(after)))


def _default_system_turn(fill: _Filler, template: Template) -> str:
    """The turn of the default system text, for a conversation that brings none of its own."""
    turn = fill.slot(template.system, _words("system.text", template, "system"))
    return "{%- if system.text and messages[0]['role'] != 'system' -%}\n" + turn + "\n{%- endif -%}"


def _merged_system(fill: _Filler, template: Template) -> str:
    """The system text in front of the words of the first or the last user turn; nothing where it is a turn."""
    if template.system_place == "turn":
        return ""
    taker = "1" if template.system_place == "first_user" else "users.all"
    system = fill.slot(template.system, _words("system.text", template, "system"))
    return (
        "{%- set users.seen = users.seen + 1 -%}\n"
        "{%- if users.seen == " + taker + " and (system.text or messages[0]['role'] == 'system') -%}\n"
        f"{system}\n"
        "{%- endif -%}"
    )


def _history_words(thinking: Thinking | None) -> str:
    """Set `words.text` to what the history shows of an answer.

    A reasoning template leaves the thought out; any other writes it in front, as plain text.
    """
    thought, content = "message['reasoning_content']", "message['content']"
    given = f"{thought} is defined and {thought} is not none"
    if thinking is None:
        inline = f"{_quote(PLAIN.open)} + {thought}.strip('\\n') + {_quote(PLAIN.close)} + {content}"
        return f"{{%- set words.text = {inline} if {given} and {thought} else {content} -%}}"
    closing = _quote(thinking.close.strip("\n"))
    answer = f"{content}.split({closing})[-1].lstrip('\\n')"
    return f"{{%- set words.text = {content} if {given} or {closing} not in {content} else {answer} -%}}"


def _opened_thought(thinking: Thinking | None, dialect: SlotDialect) -> str:
    """What a generation prompt already holds of a thought."""
    if thinking is None:
        return ""
    if dialect.settings.enable_thinking is False:
        return thinking.open + thinking.close
    return thinking.open if thinking.prompt_opens else ""


def _words(expression: str, template: Template, role: str) -> str:
    return f"{expression} | trim" if role in template.trims else expression


def _quote(text: str) -> str:
    """A Jinja string literal: for everything that can stand in a template, JSON's escapes are Jinja's."""
    return json.dumps(text, ensure_ascii=False)
