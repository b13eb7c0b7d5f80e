"""The chat template that a model brings along, in Jinja: used when `template` is not set.

It runs in jinja2's sandbox, in the environment that `apply_chat_template` gives it, with one exception: the calendar.
A template that writes today's date gets a fixed one, or the prompts of training and of inference would differ from
one day to the next. Where an answer ends is found out by rendering a probe, never by searching rows.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from tunesmith.errors import DataError, TemplateError
from tunesmith.render.dialect import THOUGHTS_LEFT_OUT, AnswerText, RenderSettings
from tunesmith.render.jinja_tools import call_row, find_support, in_words, refuse_what_is_lost
from tunesmith.render.reader import AnswerShape, read_answer
from tunesmith.render.reasoning import PLAIN, inline_reasoning, split_reasoning
from tunesmith.render.tools import get_format, recognise
from tunesmith.render.tools.base import wrapped
from tunesmith.types import Message, ToolSpec

FIXED_DATE = datetime.date(2024, 7, 26)
"""What a template is told when it asks for the date: the default that Llama 3.1's template carries itself."""

UNREADABLE_CALLS = (
    "the model's own template writes tool calls in a form that Tunesmith cannot read back: calls in answers stay text"
)

_QUESTION = Message("user", "PROBE-QUESTION")
_ANSWER = Message("assistant", "PROBE-ANSWER")


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks answers for other trainers; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 - the type that jinja2 declares

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def compile_template(source: str) -> jinja2.Template:
    """The template in a sandbox. Raises: TemplateError when it is not valid Jinja."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = FIXED_DATE.strftime
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"the model's own chat template is not valid Jinja: {error.message}",
            where=f"chat template, line {error.lineno}",
            fix="name one of Tunesmith's templates with `template:` (`tunesmith template list`)",
        ) from error


class JinjaDialect:
    """A model's own chat template.

    Args:
        source: the Jinja text.
        special_tokens: `bos_token`, `eos_token`, ... as the template sees them.
        settings: what the run changes.
        find_tokens: the special tokens written in a text, in order.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        settings: RenderSettings,
        find_tokens: Callable[[str], Sequence[str]],
    ) -> None:
        self.name = "the model's own"
        self.source, self.settings = source, settings
        self._special_tokens = dict(special_tokens)
        self._template = compile_template(source)
        self.thinking_texts = tuple(text for text in ("<think>", "</think>") if text in source)
        self.control_texts: tuple[str, ...] = ()
        self.notes: list[str] = []
        if "strftime_now" in source:
            self.notes.append(
                f"the model's own template writes today's date; it is told {FIXED_DATE.isoformat()} every day, so that "
                "training and inference see the same prompt"
            )
        if self.thinking_texts and settings.enable_thinking is False:
            self.notes.append(THOUGHTS_LEFT_OUT)
        self._support = find_support(self._plain_text)
        self.tool_format = get_format(settings.tool_format) if settings.tool_format else recognise(source)
        if self._support.calls and self.tool_format is None:
            self.notes.append(UNREADABLE_CALLS)
        self.end_text, self.end_opens_next_turn = self._find_end(find_tokens)
        eos = self._special_tokens.get("eos_token", "")
        self.call_end_text = self.end_text if settings.tool_format else self._find_call_end(find_tokens)
        ends = (self.end_text, self.call_end_text, eos)
        self.stop_texts = tuple(dict.fromkeys(text for text in ends if text))
        self.shape = self._answer_shape()
        self.open_thinking = None if settings.enable_thinking is False else self.shape.thinking

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
        """See `Dialect.prompt_text`. Raises: DataError when the template refuses the conversation."""
        return self._render(messages, tools, generation=True)

    def answer_text(self, messages: Sequence[Message], answer: Message, tools: Sequence[ToolSpec] = ()) -> AnswerText:
        """See `Dialect.answer_text`: what the template adds to the prompt once the answer is known."""
        prompt = self.prompt_text(messages, tools)
        whole = self._render([*messages, answer], tools, generation=False)
        end = self.call_end_text if answer.tool_calls else self.end_text
        if whole.startswith(prompt):
            return AnswerText(_up_to(whole[len(prompt) :], end) + end)
        if not answer.tool_calls:
            return AnswerText(self._continue(prompt, answer) + end)
        return AnswerText(self._continue_with_calls(prompt, messages, answer, tools) + end)

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> Message:
        """See `Dialect.parse`."""
        return read_answer(self.shape, text, tools)

    def describe(self) -> Mapping[str, Any]:
        """See `Dialect.describe`."""
        return {
            "source": "jinja",
            "name": self.name,
            "sha256": hashlib.sha256(self.source.encode()).hexdigest(),
            "default_system": self.settings.default_system,
            "enable_thinking": self.settings.enable_thinking if self.thinking_texts else None,
            "preserve_thinking": bool(self.thinking_texts) and self.settings.preserve_thinking,
            "tools": {"format": self.settings.tool_format},
        }

    def _render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, generation: bool) -> str:
        given = self.settings.default_system
        if given and not (messages and messages[0].role == "system"):
            messages = [Message("system", given), *messages]
        if self.settings.tool_format and self.tool_format:
            messages, tools = in_words(self.tool_format, self._support, messages, tools), ()
        refuse_what_is_lost(self._support, messages, tools)
        return self._text(messages, tools, self._support.text_arguments, generation=generation)

    def _plain_text(self, messages: Sequence[Message], tools: Sequence[ToolSpec], text_arguments: bool) -> str:
        return self._text(messages, tools, text_arguments, generation=False)

    def _text(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], text_arguments: bool, *, generation: bool
    ) -> str:
        variables: dict[str, Any] = dict(self._special_tokens)
        if self.settings.enable_thinking is not None:
            variables["enable_thinking"] = self.settings.enable_thinking
        if self.settings.preserve_thinking:
            variables["preserve_thinking"] = True
        rows = [self._as_row(message, text_arguments) for message in messages]
        try:
            return self._template.render(
                messages=rows,
                tools=[wrapped(tool) for tool in tools] or None,
                documents=None,
                add_generation_prompt=generation,
                **variables,
            )
        except (jinja2.TemplateError, TypeError) as error:  # TypeError: it adds what cannot be added
            raise DataError(
                f"the model's own chat template refuses the conversation: {error}",
                fix="change the row, or name one of Tunesmith's templates with `template:` (`tunesmith template list`)",
            ) from error

    def _find_end(self, find_tokens: Callable[[str], Sequence[str]]) -> tuple[str, bool]:
        """(the token that ends an answer, whether it is the one that opens the next turn)."""
        tail = self._after_answer([_QUESTION, _ANSWER])
        written = find_tokens(tail)
        if written:
            return written[0], False
        tail = self._after_answer([_QUESTION, _ANSWER, _QUESTION])
        following = find_tokens(tail)
        if following and tail.lstrip().startswith(following[0]):
            return following[0], True
        eos = self._special_tokens.get("eos_token", "")
        if eos:
            self.notes.append(f"the model's own template writes no end token; {eos} is trained after every answer")
        else:
            self.notes.append("the model's own template and tokenizer know no end token: training refuses it")
        return eos, False

    def _find_call_end(self, find_tokens: Callable[[str], Sequence[str]]) -> str:
        """The token that ends an answer with calls: the usual end, or what opens the turn of the results."""
        tail = self._support.call[1]
        if not tail or (self.end_text and self.end_text in tail):
            return self.end_text
        tail = self._support.after_call if self.end_opens_next_turn else tail
        written = find_tokens(tail)
        if self.end_opens_next_turn:
            return written[0] if written and tail.lstrip().startswith(written[0]) else self.end_text
        return written[-1] if written and tail.rstrip().endswith(written[-1]) else self.end_text

    def _after_answer(self, messages: Sequence[Message]) -> str:
        return self._plain_text(messages, (), False).rpartition(_ANSWER.content)[2]

    def _answer_shape(self) -> AnswerShape:
        prompt = self._render([_QUESTION], generation=True)
        opened = bool(self.thinking_texts) and prompt.rstrip().endswith(PLAIN.open.strip())
        return AnswerShape(
            self._literal_before_answer(prompt),
            thinking=PLAIN if self.thinking_texts else None,
            opened=opened,
            tools=self.tool_format,
        )

    def _literal_before_answer(self, prompt: str) -> str:
        whole = self._render([_QUESTION, _ANSWER], generation=False)
        before = whole[len(prompt) :].partition(_ANSWER.content)[0] if whole.startswith(prompt) else ""
        return before if before.isspace() else ""

    def _continue(self, prompt: str, answer: Message) -> str:
        """The answer where the template rewrites it in the history, as those do whose prompt opens a thought."""
        if not prompt.rstrip("\n").endswith(PLAIN.open.strip()):
            return answer.content
        thought, words = split_reasoning(answer)
        return ("" if prompt.endswith("\n") else "\n") + thought + PLAIN.close + words

    def _continue_with_calls(
        self, prompt: str, messages: Sequence[Message], answer: Message, tools: Sequence[ToolSpec]
    ) -> str:
        """The same for an answer with calls: its thought, then what the template writes without it."""
        opening = PLAIN.open.strip()
        thought, words = split_reasoning(answer)
        header = prompt.rstrip("\n").removesuffix(opening)
        shown = replace(answer, content=words, reasoning=None)
        whole = self._render([*messages, shown], tools, generation=False)
        if not prompt.rstrip("\n").endswith(opening) or not whole.startswith(header):
            raise DataError(
                "the model's own chat template writes an answer with calls in another way than its prompt begins it",
                fix="name one of Tunesmith's templates with `template:` (`tunesmith template list`)",
            )
        line = "" if prompt.endswith("\n") else "\n"
        return line + thought + PLAIN.close + _up_to(whole[len(header) :], self.call_end_text)

    def _as_row(self, message: Message, text_arguments: bool) -> dict[str, Any]:
        if message.reasoning and "reasoning_content" not in self.source:  # it would be lost without a word
            row: dict[str, Any] = {"role": message.role, "content": inline_reasoning(message)}
        else:
            row = {"role": message.role, "content": message.content}
            if message.reasoning is not None:
                row["reasoning_content"] = message.reasoning
        if message.tool_calls:
            row["tool_calls"] = [call_row(call, text_arguments=text_arguments) for call in message.tool_calls]
        return row


def _up_to(text: str, end: str) -> str:
    """`text` up to the first `end`; all of it when that does not come."""
    return text.partition(end)[0] if end else text


def own_template_ids(
    tokenizer: Any, rows: Sequence[Mapping[str, str]], variables: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """The generation prompt as `apply_chat_template` tokenizes it; None when the template refuses the rows.

    `variables` go to the template; `add_generation_prompt` among them leaves the header out when False.
    """
    given = {"add_generation_prompt": True, **variables}
    try:
        ids = tokenizer.apply_chat_template(list(rows), tokenize=True, return_dict=False, **given)
    except jinja2.TemplateError:
        return None
    return tuple(ids)
