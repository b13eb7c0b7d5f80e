"""Renders the templates of the tables: slots filled with words, joined to one text.

The rules that are not plain filling: where the system text goes, whose words are stripped, and what becomes of
thoughts. At inference the thoughts of earlier answers leave the history (unless `preserve_thinking`), and
training sees the same prompts, because both come from `prompt_text`. Where the tools are told, the tool format says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile, zip_longest
from typing import Any

from tunesmith.errors import DataError
from tunesmith.render.dialect import THOUGHTS_LEFT_OUT, AnswerText, RenderSettings
from tunesmith.render.reader import AnswerShape, read_answer
from tunesmith.render.reasoning import inline_reasoning, split_reasoning
from tunesmith.render.template import Template
from tunesmith.render.tools import get_format
from tunesmith.render.tools.base import joined_system
from tunesmith.types import Message, Role, ToolSpec


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
        self.call_end_text = self._fill(template.tools.end) or self.end_text
        self.tool_format = get_format(settings.tool_format or template.tools.format)
        self.stop_texts = tuple(text for text in (self.end_text, *template.stops) if text)
        self.control_texts = tuple(dict.fromkeys((*template.required_tokens, *self.stop_texts)))
        thinking = template.thinking
        self.thinking_texts: tuple[str, ...] = (thinking.open.strip(), thinking.close.strip()) if thinking else ()
        given = settings.default_system
        self._default_system = template.default_system if given is None else given
        before, after = self._fill(template.answer).split("{content}")
        opened = thinking is not None and settings.enable_thinking is not False and thinking.prompt_opens
        self.open_thinking = None if settings.enable_thinking is False else thinking
        calls = self._fill(template.tools.calls or template.answer).split("{content}")
        self.shape = AnswerShape(before, after, calls[0], calls[1], thinking, opened, self.tool_format)
        self.notes = self._what_to_know()

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
        """See `Dialect.prompt_text`. Raises: DataError when a merged system text has no user turn to go into."""
        return self._history(messages, tools) + self._fill(self.template.header) + self._prompt_thought()

    def answer_text(self, messages: Sequence[Message], answer: Message, tools: Sequence[ToolSpec] = ()) -> AnswerText:
        """See `Dialect.answer_text`. Raises: DataError when a call's arguments are no JSON object."""
        thinking = self.template.thinking
        end = self.call_end_text if answer.tool_calls else self.end_text
        if thinking is None:
            return AnswerText(self._words_and_calls(answer, inline_reasoning(answer)) + end)
        thought, words = split_reasoning(answer, thinking)
        closing = self._words_and_calls(answer, words.lstrip("\n")) + end
        if self.settings.enable_thinking is False:
            return AnswerText(closing)
        block = ("" if thinking.prompt_opens else thinking.open) + thought + thinking.close
        if not thought and self.settings.enable_thinking is None:
            return AnswerText(closing, silent=block)
        return AnswerText(block + closing)

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> Message:
        """See `Dialect.parse`: literal text of the answer slot is taken off, thought and calls are set apart."""
        return read_answer(self.shape, text, tools)

    def describe(self) -> Mapping[str, Any]:
        """See `Dialect.describe`."""
        return {
            "source": "template",
            "name": self.name,
            "sha256": self.template.fingerprint(),
            "tools": {"format": self.tool_format.name, "sha256": self.template.tools_fingerprint()},
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

    def _history(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        messages = self._with_default_system(messages)
        before_turns, in_front, messages = self._placed_tools(messages, tools)
        merged_at, merged = self._merged_system(messages)
        if merged:
            in_front = {**in_front, merged_at: in_front.get(merged_at, "") + merged}
        last_question = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
        parts = [self._fill(self.template.prefix)]
        for index, message in enumerate(messages):
            parts.append(before_turns.get(index, ""))
            if message.role in ("system", "user"):
                words = in_front.get(index, "") + self._trim(message, message.content)
                parts.append(self._opening_turn(message.role, words))
            elif message.role == "tool":
                parts.append(self._results(messages, index))
            else:
                parts.append(self._past_answer(message, keeps_thought=index > last_question))
        return "".join(parts)

    def _placed_tools(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec]
    ) -> tuple[dict[int, str], dict[int, str], Sequence[Message]]:
        """(texts in front of turns, texts in front of users' words, both by index; the messages), tools told."""
        if not tools:
            return {}, {}, messages
        form, text = self.tool_format, self.tool_format.tools_text(tools)
        if form.place == "system_turn":
            return {0: self._slot(self.template.system, text)}, {}, messages
        if form.place in ("system_start", "system_end"):
            return {}, {}, joined_system(messages, text, form)
        opening: dict[int, str] = {}
        if form.system_opening:
            opening = {0: form.system_opening}
            has_system = bool(messages) and messages[0].role == "system"
            messages = messages if has_system else [Message("system", ""), *messages]
        users = [index for index, message in enumerate(messages) if message.role == "user"]
        if not users:
            raise DataError(
                "a conversation with tools has no user turn",
                why=f"tool format '{form.name}' tells the tools in front of a user's words",
                fix="give it a question, or choose another `tool_format`",
            )
        if form.place == "first_user":
            return {}, {**opening, users[0]: text}, messages
        return {users[-1]: text}, opening, messages

    def _results(self, messages: Sequence[Message], index: int) -> str:
        """The turn of the tool results that begin at `index`; empty inside such a run."""
        turns = self.template.tools
        if index and messages[index - 1].role == "tool":
            return ""
        run = takewhile(lambda message: message.role == "tool", messages[index:])
        calls = messages[index - 1].tool_calls if index else ()
        pairs = zip_longest(run, calls)  # results come in the order of the calls
        results = [self.tool_format.result_text(told.content, call) for told, call in pairs if told is not None]
        if not turns.turn:
            return "".join(self._slot(self.template.user, result) for result in results)
        return self._slot(turns.turn, "".join(self._slot(turns.result, result) for result in results))

    def _opening_turn(self, role: Role, words: str) -> str:
        """A turn of the user, or of the system where that has turns of its own."""
        if role == "user":
            return self._slot(self.template.user, words)
        return self._slot(self.template.system, words) if self.template.system_place == "turn" else ""

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

    def _past_answer(self, message: Message, *, keeps_thought: bool) -> str:
        template = self.template
        block, words = self._past_thought(message, keeps_thought)
        answer = block + self._words_and_calls(message, words)
        end = self.call_end_text if message.tool_calls else self.end_text
        end = "" if template.end_opens_next_turn else end
        return self._fill(template.header) + answer + end + self._fill(template.gap)

    def _words_and_calls(self, message: Message, words: str) -> str:
        """The answer slot, filled; calls follow the words."""
        template, words = self.template, self._trim(message, words)
        if not message.tool_calls:
            return self._slot(template.answer, words)
        calls = self.tool_format.calls_text(message.tool_calls)
        if not words:
            return self._slot(template.tools.calls or template.answer, calls)
        return self._slot(template.answer, words + self.tool_format.separator + calls)

    def _past_thought(self, message: Message, keeps_thought: bool) -> tuple[str, str]:
        """(the thought as it stands in the history, or nothing; the words)."""
        thinking = self.template.thinking
        if thinking is None:
            return "", inline_reasoning(message)
        thought, words = split_reasoning(message, thinking)
        if self.settings.enable_thinking is False:
            thought = ""
        stays = bool(thought) and keeps_thought and self.template.tools.keeps_thoughts
        if not self.settings.preserve_thinking and not stays:
            return "", words
        return thinking.open + thought + thinking.close, words.lstrip("\n")

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
