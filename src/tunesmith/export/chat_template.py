"""Which chat template goes with the exported model: its own, when it renders the same prompts, else one made here.

Whoever loads the folder (transformers, vLLM, llama.cpp's converter) prompts it through the Jinja template in it. If
that lays turns out in another way than training did, the model answers worse and nothing tells. So the model's own
template stays only if it gives the renderer's tokens on every probe conversation; otherwise the template that was
trained with is written as Jinja and held to the same test.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.render import Renderer
from tunesmith.render.compare import compare_with_own
from tunesmith.render.probes import probe_conversations
from tunesmith.render.reasoning import PLAIN
from tunesmith.render.slots import SlotDialect


@dataclass(frozen=True)
class ChatTemplateChoice:
    """What was decided.

    Attributes:
        jinja: the template for the folder; None when there is none.
        is_faithful: it renders every probe as the renderer does.
        note: what the user should know; empty when the model's own template stays and is right.
    """

    jinja: str | None
    is_faithful: bool
    note: str


def choose_chat_template(renderer: Renderer) -> ChatTemplateChoice:
    """Decide which template to write. The tokenizer of `renderer` is left as it was."""
    own = renderer.tokenizer.chat_template
    own_difference = _difference(renderer, own)
    if own and not own_difference:
        return ChatTemplateChoice(own, True, "")
    reason = own_difference if own else "the model has none"
    made = jinja_of(renderer)
    if made and not _difference(renderer, made):
        note = f"chat template written from template {renderer.template_name} ({reason})"
        return ChatTemplateChoice(made, True, note)
    if own:
        note = f"the model's own chat template stays, but does not always give the prompts of training: {reason}"
        return ChatTemplateChoice(own, False, note)
    return ChatTemplateChoice(None, False, f"no chat template is written: {renderer.template_name} has no Jinja form")


def _difference(renderer: Renderer, jinja: str | None) -> str:
    """The first probe that `jinja` renders differently, in words; empty when there is none."""
    tokenizer = renderer.tokenizer
    before = tokenizer.chat_template
    tokenizer.chat_template = jinja
    try:
        results = compare_with_own(renderer, probe_conversations()) if jinja else []
    finally:
        tokenizer.chat_template = before
    for result in results:
        if result.verdict == "differs":
            return f"conversation '{result.probe}' differs: trained {result.ours}, there {result.theirs}"
    return ""


def jinja_of(renderer: Renderer) -> str | None:
    """The table template of `renderer` as Jinja, end and begin tokens filled in; None when it has no such form."""
    dialect = renderer.dialect
    if not isinstance(dialect, SlotDialect) or dialect.settings.preserve_thinking:
        return None
    template, default_system = dialect.template, dialect.describe()["default_system"] or ""
    fill = _Filler(renderer.tokenizer.bos_token or "", renderer.tokenizer.eos_token or "")
    end = "" if template.end_opens_next_turn else template.end
    user_words = _trimmed("message['content']", "user" in template.trims)
    merged = template.system_place != "turn"
    which = "first" if template.system_place == "first_user" else "last"
    lines = [
        _SYSTEM_START % _quote(default_system),
        fill.text(template.prefix),
        _USER_COUNT if merged else "",
        "" if merged else "{%- if system.text and messages[0]['role'] != 'system' -%}",
        "" if merged else fill.slot(template.system, _trimmed("system.text", "system" in template.trims)),
        "" if merged else "{%- endif -%}",
        "{%- for message in messages -%}",
        "{%- if message['role'] == 'system' -%}",
        "" if merged else fill.slot(template.system, _trimmed("message['content']", "system" in template.trims)),
        "{%- elif message['role'] == 'user' -%}",
        "{%- set users.seen = users.seen + 1 -%}" if merged else "",
        _merged_user(fill, template, user_words, which) if merged else fill.slot(template.user, user_words),
        "{%- elif message['role'] == 'assistant' -%}",
        _words(template.thinking),
        fill.text(template.header),
        fill.slot(template.answer, _trimmed("words.text", "assistant" in template.trims)),
        fill.text(end),
        fill.text(template.gap),
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}",
        fill.text(template.header),
        fill.text(_prompt_thought(dialect)),
        "{%- endif -%}",
    ]
    return "\n".join(line for line in lines if line) + "\n"


_SYSTEM_START = (
    "{%%- set words = namespace(text='') -%%}\n"
    "{%%- set system = namespace(text=%s) -%%}\n"
    "{%%- if messages and messages[0]['role'] == 'system' -%%}"
    "{%%- set system.text = messages[0]['content'] -%%}{%%- endif -%%}"
)
_USER_COUNT = (
    "{%- set users = namespace(all=0, seen=0) -%}\n"
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
    "{%- set users.all = users.all + 1 -%}{%- endif -%}{%- endfor -%}"
)


@dataclass(frozen=True)
class _Filler:
    """Slots as Jinja expressions, with the tokenizer's begin and end token in them."""

    bos: str
    eos: str

    def text(self, slot: str) -> str:
        """Literal text; empty for none."""
        text = slot.replace("{bos}", self.bos).replace("{eos}", self.eos)
        return "{{- " + _quote(text) + " -}}" if text else ""

    def slot(self, slot: str, expression: str) -> str:
        """Literal text around an expression."""
        before, after = slot.split("{content}")
        return "\n".join(part for part in (self.text(before), "{{- " + expression + " -}}", self.text(after)) if part)


def _merged_user(fill: _Filler, template: Any, words: str, which: str) -> str:
    """A user turn that takes the system text in front of its words, when it is the first or the last one."""
    before, after = template.user.split("{content}")
    system = fill.slot(template.system, _trimmed("system.text", "system" in template.trims))
    number = "1" if which == "first" else "users.all"
    lines = [
        fill.text(before),
        "{%- if messages[0]['role'] == 'system' or system.text -%}{%- if users.seen == " + number + " -%}",
        system,
        "{%- endif -%}{%- endif -%}",
        "{{- " + words + " -}}",
        fill.text(after),
    ]
    return "\n".join(line for line in lines if line)


def _words(thinking: Any) -> str:
    """Set `words.text` to what the history shows of an answer: its thought in front, or left out."""
    thought = "message['reasoning_content']"
    has_thought = f"message['reasoning_content'] is defined and {thought} is not none"
    if thinking is None:
        inline = f"{_quote(PLAIN.open)} + {thought}.strip('\\n') + {_quote(PLAIN.close)} + message['content']"
        return f"{{%- set words.text = {inline} if {has_thought} and {thought} else message['content'] -%}}"
    closing = _quote(thinking.close.strip("\n"))
    after = f"message['content'].split({closing})[-1].lstrip('\\n')"
    return (
        f"{{%- if {has_thought} or {closing} not in message['content'] -%}}"
        "{%- set words.text = message['content'] -%}{%- else -%}"
        f"{{%- set words.text = {after} -%}}{{%- endif -%}}"
    )


def _prompt_thought(dialect: SlotDialect) -> str:
    thinking = dialect.template.thinking
    if thinking is None:
        return ""
    if dialect.settings.enable_thinking is False:
        return thinking.open + thinking.close
    return thinking.open if thinking.prompt_opens else ""


def _trimmed(expression: str, trim: bool) -> str:
    return f"{expression} | trim" if trim else expression


def _quote(text: str) -> str:
    """A Jinja string literal: JSON's escapes are Python's for everything that can stand here."""
    return json.dumps(text, ensure_ascii=False)


__all__: Sequence[str] = ("ChatTemplateChoice", "choose_chat_template", "jinja_of")
