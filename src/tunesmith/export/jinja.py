"""Write a template of the table as a Jinja chat template, for the tools that will prompt an exported model.

The same rules as `render/slots.py`, in Jinja: slots filled with words, the system text as a turn of its own or in
front of a user's words, stripped words for some roles, thoughts out of the history, tools where their format can be
written so. The tests render every template both ways. Every tag strips the whitespace around it, so the line breaks
below are only for readers.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.export.jinja_tools import JinjaTools, jinja_tools, quote
from tunesmith.render import Renderer
from tunesmith.render.reasoning import PLAIN
from tunesmith.render.slots import SlotDialect
from tunesmith.render.template import Template, Thinking
from tunesmith.render.tools import ToolFormat

_SYSTEM_TEXT = """\
{%- set words = namespace(text='', thought='') -%}
{%- set calls = namespace(text='') -%}
{%- set told = namespace(text='', opening='', names=[]) -%}
{%- set has_system = messages and messages[0]['role'] == 'system' -%}
{%- set system = namespace(text=DEFAULT) -%}
{%- if has_system -%}
{%- set system.text = messages[0]['content'] -%}
{%- endif -%}"""

_COUNT_USERS = """\
{%- set users = namespace(all=0, seen=0, last=-1) -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{%- set users.all = users.all + 1 -%}
{%- set users.last = loop.index0 -%}
{%- endif -%}
{%- endfor -%}"""

_FRAME = """\
{system_text}
{users}
{told}
{prefix}
{opening}
{{%- for message in messages -%}}
{{%- if message['role'] == 'system' -%}}
{system}
{{%- elif message['role'] == 'user' -%}}
{{%- set users.seen = users.seen + 1 -%}}
{user}
{results}
{{%- elif message['role'] == 'assistant' -%}}
{words}
{answer}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
{prompt}
{{%- endif -%}}"""


def jinja_of(renderer: Renderer) -> str | None:
    """The template of `renderer` as Jinja; None when it is not of the table, or keeps thoughts in the history.

    With tools where their format can be written as Jinja (`jinja_tools`).
    """
    dialect = renderer.dialect
    if not isinstance(dialect, SlotDialect) or dialect.settings.preserve_thinking:
        return None
    template = dialect.template
    fill = _Filler(renderer.tokenizer.bos_token or "", renderer.tokenizer.eos_token or "")
    parts = jinja_tools(dialect.tool_format)
    text = _FRAME.format(
        system_text=_SYSTEM_TEXT.replace("DEFAULT", quote(str(dialect.describe()["default_system"] or ""))),
        users=_COUNT_USERS,
        told=_told(parts, dialect.tool_format) if parts else "",
        prefix=fill.text(template.prefix),
        opening=_opening(fill, template, dialect.tool_format),
        system=_system_turn(fill, template),
        user=_user_turn(fill, template, dialect.tool_format),
        results=_results(fill, template, parts) if parts else "",
        words=_history_words(dialect),
        answer=_answer(fill, dialect, parts),
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
        return "{{- " + quote(text) + " -}}" if text else ""

    def slot(self, slot: str, expression: str, in_front: str = "") -> str:
        """Literal text around an expression; `in_front` is Jinja that goes directly before it."""
        before, after = slot.split("{content}")
        return "\n".join((self.text(before), in_front, "{{- " + expression + " -}}", self.text(after)))


def writes_tools(renderer: Renderer) -> bool:
    """Whether `jinja_of` can write the tools of this renderer's template."""
    dialect = renderer.dialect
    return isinstance(dialect, SlotDialect) and jinja_tools(dialect.tool_format) is not None


def _told(parts: JinjaTools, form: ToolFormat) -> str:
    """Set `told.text`, and put it into the system text where that is its place."""
    lines = ["{%- if tools -%}", parts.told]
    if form.place == "system_end":
        joined = f"system.text + {quote(form.joint)} + told.text"
        lines.append(f"{{%- set system.text = {joined} if has_system or system.text else told.text -%}}")
    if form.system_opening:
        lines.append(f"{{%- set told.opening = {quote(form.system_opening)} -%}}")
    return "\n".join((*lines, "{%- endif -%}"))


def _opening(fill: _Filler, template: Template, form: ToolFormat) -> str:
    """The turns in front of all messages: tools, and a system text that no message brings."""
    lines = []
    if form.place == "system_turn":
        lines += ["{%- if told.text -%}", fill.slot(template.system, "told.text"), "{%- endif -%}"]
    if template.system_place == "turn":
        turn = fill.slot(template.system, "told.opening + " + _words("system.text", template, "system"))
        lines += ["{%- if (system.text or told.opening) and not has_system -%}", turn, "{%- endif -%}"]
    return "\n".join(lines)


def _system_turn(fill: _Filler, template: Template) -> str:
    """A system message as a turn; nothing where it is merged into a user's words."""
    if template.system_place != "turn":
        return ""
    words = _words("(system.text if loop.first else message['content'])", template, "system")
    return fill.slot(template.system, f"(told.opening if loop.first else '') + ({words})")


def _user_turn(fill: _Filler, template: Template, form: ToolFormat) -> str:
    """A user's turn, with what is told in front of it or of its words."""
    in_front, before = _merged_system(fill, template), ""
    if form.place == "first_user":
        in_front = "{{- told.text if users.seen == 1 -}}\n" + in_front
    if form.place == "last_user":
        before = "{{- told.text if users.seen == users.all -}}\n"
    return before + fill.slot(template.user, _words("message['content']", template, "user"), in_front)


def _results(fill: _Filler, template: Template, parts: JinjaTools) -> str:
    """The turn of tool results that follow each other."""
    turns = template.tools
    begin, end = turns.turn.split("{content}") if turns.turn else ("", "")
    slot = fill.slot(turns.result if turns.turn else template.user, parts.result)
    return "\n".join(
        (
            "{%- elif message['role'] == 'tool' -%}",
            _only(fill.text(begin), "loop.first or messages[loop.index0 - 1]['role'] != 'tool'"),
            slot,
            _only(fill.text(end), "loop.last or messages[loop.index0 + 1]['role'] != 'tool'"),
        )
    )


def _answer(fill: _Filler, dialect: SlotDialect, parts: JinjaTools | None) -> str:
    """An assistant's turn of the history."""
    template = dialect.template
    closing = fill.text("" if template.end_opens_next_turn else template.end) + "\n" + fill.text(template.gap)
    opening = fill.text(template.header) + "\n{{- words.thought -}}"
    plain = fill.slot(template.answer, "words.text")
    trimmed = f"{{%- set words.text = {_words('words.text', template, 'assistant')} -%}}"
    if parts is None:
        return "\n".join((opening, trimmed, plain, closing))
    alone = fill.slot(template.tools.calls or template.answer, "calls.text")
    joined = f"words.text + {quote(dialect.tool_format.separator)} + calls.text"
    return "\n".join(
        (
            opening,
            trimmed,
            "{%- set calls.text = '' -%}\n{%- if message['tool_calls'] -%}",
            parts.calls,
            "{%- endif -%}\n{%- if calls.text and not words.text -%}",
            alone,
            "{%- else -%}",
            f"{{%- set words.text = {joined} if calls.text else words.text -%}}",
            plain,
            "{%- endif -%}",
            closing,
        )
    )


def _only(text: str, condition: str) -> str:
    return f"{{%- if {condition} -%}}\n{text}\n{{%- endif -%}}" if text else ""


def _merged_system(fill: _Filler, template: Template) -> str:
    """The system text in front of the words of the first or the last user turn; nothing where it is a turn."""
    if template.system_place == "turn":
        return ""
    taker = "1" if template.system_place == "first_user" else "users.all"
    system = fill.slot(template.system, _words("system.text", template, "system"))
    return f"{{%- if users.seen == {taker} and (system.text or has_system) -%}}\n{system}\n{{%- endif -%}}"


def _history_words(dialect: SlotDialect) -> str:
    """Set `words.text` and `words.thought` to what the history shows of an answer.

    A reasoning template leaves the thought out, or keeps it since the last question; any other writes it in front of
    the words, as plain text.
    """
    thinking = dialect.template.thinking
    thought, content = "message['reasoning_content']", "(message['content'] or '')"
    given = f"{thought} is defined and {thought} is not none"
    if thinking is None:
        inline = f"{quote(PLAIN.open)} + {thought}.strip('\\n') + {quote(PLAIN.close)} + {content}"
        return f"{{%- set words.text = {inline} if {given} and {thought} else {content} -%}}"
    opening, closing = quote(thinking.open.strip("\n")), quote(thinking.close.strip("\n"))
    answer = f"{content}.split({closing})[-1].lstrip('\\n')"
    lines = [
        "{%- set words.thought = '' -%}",
        f"{{%- set words.text = {content} if {given} or {closing} not in {content} else {answer} -%}}",
    ]
    if dialect.template.tools.keeps_thoughts and dialect.settings.enable_thinking is not False:
        written = f"(({content}.split({closing})[:-1] | join({closing})).split({opening})[-1])"
        shown = f"{quote(thinking.open)} + words.thought + {quote(thinking.close)}"
        lines += [
            "{%- if loop.index0 > users.last -%}",
            f"{{%- set words.thought = ({thought} if {given} else {written}).strip('\\n') -%}}",
            "{%- if words.thought -%}",
            f"{{%- set words.thought = {shown} -%}}\n{{%- set words.text = words.text.lstrip('\\n') -%}}",
            "{%- endif -%}\n{%- endif -%}",
        ]
    return "\n".join(lines)


def _opened_thought(thinking: Thinking | None, dialect: SlotDialect) -> str:
    """What a generation prompt already holds of a thought."""
    if thinking is None:
        return ""
    if dialect.settings.enable_thinking is False:
        return thinking.open + thinking.close
    return thinking.open if thinking.prompt_opens else ""


def _words(expression: str, template: Template, role: str) -> str:
    return f"{expression} | trim" if role in template.trims else expression
