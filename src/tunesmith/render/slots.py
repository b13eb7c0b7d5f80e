"""Renders the templates of the tables: slots filled with words, joined to one text.

The rules that are not plain filling: where the system text goes, whose words are stripped, and what becomes of
thoughts. At inference the thoughts of earlier answers leave the history (unless `preserve_thinking`), and
training sees the same prompts, because both come from `prompt_text`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import DataError
from tunesmith.render.dialect import THOUGHTS_LEFT_OUT, AnswerText, RenderSettings
from tunesmith.render.reasoning import inline_reasoning, split_reasoning
from tunesmith.render.template import Template
from tunesmith.types import Message


class SlotDialect:
    """A table template with a model's begin and end tokens filled in.

    Args:
        template: the table entry.
        bos: the tokenizer's begin token, empty when it has none.
        eos: the tokenizer's end token, empty when it has none.
        settings: what the run changes.
    """

    def __init__(self, template: Template, bos: str, eos: str, settings: RenderSettings) -> None:
        self.template, self.settings = template, settings
        self.name = template.name
        self._bos, self._eos = bos, eos
        self.end_text = self._fill(template.end)
        self.stop_texts = tuple(text for text in (self.end_text, *template.stops) if text)
        self.control_texts = tuple(dict.fromkeys((*template.required_tokens, *self.stop_texts)))
        thinking = template.thinking
        self.thinking_texts: tuple[str, ...] = (thinking.open.strip(), thinking.close.strip()) if thinking else ()
        given = settings.default_system
        self._default_system = template.default_system if given is None else given
        self.notes = self._what_to_know()

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """See `Dialect.prompt_text`. Raises: DataError when a merged system text has no user turn to go into."""
        return self._history(messages) + self._fill(self.template.header) + self._prompt_thought()

    def answer_text(self, messages: Sequence[Message], answer: Message) -> AnswerText:
        """See `Dialect.answer_text`."""
        thinking = self.template.thinking
        before, after = self._fill(self.template.answer).split("{content}")
        if thinking is None:
            words = self._trim(answer, inline_reasoning(answer))
            return AnswerText(before + words + after + self.end_text)
        thought, words = split_reasoning(answer, thinking)
        words = self._trim(answer, words.lstrip("\n"))
        closing = before + words + after + self.end_text
        if self.settings.enable_thinking is False:
            return AnswerText(closing)
        block = ("" if thinking.prompt_opens else thinking.open) + thought + thinking.close
        if not thought and self.settings.enable_thinking is None:
            return AnswerText(closing, silent=block)
        return AnswerText(block + closing)

    def parse(self, text: str) -> Message:
        """See `Dialect.parse`: literal text of the answer slot is taken off, a thought is set apart."""
        before, after = self._fill(self.template.answer).split("{content}")
        words = text.removeprefix(before).removesuffix(after)
        thinking = self.template.thinking
        if thinking is None:
            return Message("assistant", words)
        thought, words = split_reasoning(Message("assistant", words), thinking)
        return Message("assistant", words, reasoning=thought or None)

    def describe(self) -> Mapping[str, Any]:
        """See `Dialect.describe`."""
        return {
            "source": "template",
            "name": self.name,
            "sha256": self.template.fingerprint(),
            "default_system": self._default_system,
            "enable_thinking": self.settings.enable_thinking if self.template.thinking else None,
            "preserve_thinking": bool(self.template.thinking) and self.settings.preserve_thinking,
        }

    def _what_to_know(self) -> list[str]:
        template, thinking, notes = self.template, self.template.thinking, []
        if not self.end_text:
            notes.append(
                f"template '{template.name}' ends answers with no token"
                + (", since the tokenizer has no end token" if template.end else "")
                + ": a model tuned with it would never stop, so training refuses it"
            )
        if "{bos}" in template.prefix + template.user and not self._bos:
            notes.append("the tokenizer has no begin token, so none is written")
        if thinking and self.settings.enable_thinking is False:
            notes.append(THOUGHTS_LEFT_OUT)
        if thinking and not self.settings.preserve_thinking:
            notes.append(
                f"template '{template.name}' takes thoughts out of the history, so a dialogue of several turns becomes "
                "one example per answer; `preserve_thinking: true` keeps it whole"
            )
        return notes

    def _history(self, messages: Sequence[Message]) -> str:
        messages = self._with_default_system(messages)
        merged_at, merged = self._merged_system(messages)
        parts = [self._fill(self.template.prefix)]
        for index, message in enumerate(messages):
            if message.role == "system":
                own_turn = self.template.system_place == "turn"
                parts.append(self._slot(self.template.system, self._trim(message, message.content)) if own_turn else "")
            elif message.role == "user":
                words = self._trim(message, message.content)
                parts.append(self._slot(self.template.user, merged + words if index == merged_at else words))
            else:
                parts.append(self._past_answer(message))
        return "".join(parts)

    def _with_default_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self._default_system and not (messages and messages[0].role == "system"):
            return [Message("system", self._default_system), *messages]
        return messages

    def _merged_system(self, messages: Sequence[Message]) -> tuple[int, str]:
        """(index of the user turn that takes the system text, that text), or (-1, "")."""
        if self.template.system_place == "turn" or not any(message.role == "system" for message in messages):
            return -1, ""
        users = [index for index, message in enumerate(messages) if message.role == "user"]
        if not users or any(message.role == "system" for message in messages[1:]):
            raise DataError(
                "a system text that is not at the start of a conversation, or has no user turn after it",
                why=f"template '{self.name}' writes the system text in front of a user's words",
                fix="put the system turn first, or remove it",
            )
        words = self._trim(messages[0], messages[0].content)
        return users[0 if self.template.system_place == "first_user" else -1], self._slot(self.template.system, words)

    def _past_answer(self, message: Message) -> str:
        template = self.template
        words = self._trim(message, self._past_words(message))
        end = "" if template.end_opens_next_turn else self.end_text
        return self._fill(template.header) + self._slot(template.answer, words) + end + self._fill(template.gap)

    def _past_words(self, message: Message) -> str:
        thinking = self.template.thinking
        if thinking is None:
            return inline_reasoning(message)
        thought, words = split_reasoning(message, thinking)
        if not self.settings.preserve_thinking:
            return words
        if self.settings.enable_thinking is False:
            thought = ""
        return thinking.open + thought + thinking.close + words.lstrip("\n")

    def _prompt_thought(self) -> str:
        thinking = self.template.thinking
        if thinking is None:
            return ""
        if self.settings.enable_thinking is False:
            return thinking.open + thinking.close
        return thinking.open if thinking.prompt_opens else ""

    def _trim(self, message: Message, words: str) -> str:
        return words.strip() if message.role in self.template.trims else words

    def _slot(self, slot: str, words: str) -> str:
        before, after = self._fill(slot).split("{content}")
        return before + words + after

    def _fill(self, slot: str) -> str:
        return slot.replace("{bos}", self._bos).replace("{eos}", self._eos)
