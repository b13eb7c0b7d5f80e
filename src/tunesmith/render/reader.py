"""Reads an answer as it is written: thought, words and tool calls set apart, piece by piece.

`AnswerReader` takes text in pieces of any size and tells what became certain; what could still be the beginning of a
marker is held back. Reading a whole text (`read_answer`) is the same reader fed once, so a stream and a finished answer
never differ. What looks like a call and is none (broken JSON, an unknown function) stays words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tunesmith.render.template import Thinking
from tunesmith.render.tools import ToolFormat
from tunesmith.render.tools.base import Found
from tunesmith.types import Message, ToolCall, ToolSpec


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the answer's words."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the thought."""

    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of call number `index`: its name (first delta only, else empty) and a piece of its JSON arguments.

    `id` is what the model itself wrote as the call's identifier; mostly empty.
    """

    index: int
    name: str
    arguments: str
    id: str = ""


_RETRY = 64
"""A call that is not complete is looked at again once it has grown by this part of its length: a long one would
otherwise be read from its start with every token. At the end of the answer all of it is read."""

Delta = ContentDelta | ReasoningDelta | CallDelta


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """What an answer looks like in a layout.

    Attributes:
        before: literal text in front of the words, which are not part of them.
        after: literal text behind them.
        calls_before: literal text in front of calls that no words precede.
        calls_after: literal text behind these.
        thinking: how thoughts are written; None when the layout knows none.
        opened: the generation prompt has opened the thought already.
        tools: how calls are written; None when it is not known.
    """

    before: str = ""
    after: str = ""
    calls_before: str = ""
    calls_after: str = ""
    thinking: Thinking | None = None
    opened: bool = False
    tools: ToolFormat | None = None


class AnswerReader:
    """Reads one answer.

    Args:
        shape: what answers look like.
        tools: the functions that may be called; without them nothing is read as a call.
    """

    def __init__(self, shape: AnswerShape, tools: Sequence[ToolSpec] = ()) -> None:
        self._thought = _ThoughtReader(shape.thinking, shape.opened) if shape.thinking else None
        self._before: str | None = shape.before
        self._calls = _CallReader(shape.tools, tools) if shape.tools and tools else None
        self._ending = _Ending(shape.after)
        self._words = ""

    def feed(self, text: str) -> list[Delta]:
        """What became certain with `text`."""
        return self._read(text, is_final=False)

    def finish(self) -> list[Delta]:
        """What is left when nothing follows."""
        return self._read("", is_final=True)

    def _read(self, text: str, *, is_final: bool) -> list[Delta]:
        deltas: list[Delta] = []
        if self._thought:
            thought, text = self._thought.read(text, is_final=is_final)
            deltas += [ReasoningDelta(thought)] if thought else []
        text = self._without_literal(text, is_final)
        parts: Iterable[str | ToolCall] = self._calls.read(text, is_final=is_final) if self._calls else [text]
        for part in parts:
            if isinstance(part, ToolCall):
                assert self._calls is not None
                deltas.append(CallDelta(self._calls.num_calls, part.name, part.arguments, part.id))
                self._calls.num_calls += 1
            elif words := self._ending.read(part):
                deltas.append(ContentDelta(words))
        if is_final and (words := self._ending.finish()):
            deltas.append(ContentDelta(words))
        return deltas

    def _without_literal(self, text: str, is_final: bool) -> str:
        """`text` without the literal text that stands in front of the words, once it is known to be there or not."""
        if self._before is None:
            return text
        self._words += text
        if not is_final and len(self._words) < len(self._before) and self._before.startswith(self._words):
            return ""
        words, before = self._words, self._before
        if words or is_final:
            self._before = None
        return words.removeprefix(before)


def read_answer(shape: AnswerShape, text: str, tools: Sequence[ToolSpec] = ()) -> Message:
    """The message behind a whole generated text."""
    reader = AnswerReader(shape, tools)
    return join_deltas([*reader.feed(text), *reader.finish()])


def join_deltas(deltas: Iterable[Delta]) -> Message:
    """The message that deltas tell."""
    message, calls = Message("assistant", ""), list[ToolCall]()
    for delta in deltas:
        if isinstance(delta, ContentDelta):
            message = replace(message, content=message.content + delta.text)
        elif isinstance(delta, ReasoningDelta):
            message = replace(message, reasoning=(message.reasoning or "") + delta.text)
        elif delta.index == len(calls):
            calls.append(ToolCall(delta.name, delta.arguments, delta.id))
        else:
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + delta.arguments)
    return replace(message, tool_calls=tuple(calls))


@dataclass
class _ThoughtReader:
    """Takes the thought off the front; its line breaks at the edges belong to the markers."""

    thinking: Thinking
    inside: bool
    rest: str = ""
    stage: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.opening, self.closing = self.thinking.open.strip("\n"), self.thinking.close.strip("\n")
        self.stage = "before"
        self.begun = False

    def read(self, text: str, *, is_final: bool) -> tuple[str, str]:
        """(what became certain of the thought, what became certain of what follows it)."""
        self.rest += text
        thought = ""
        if self.stage == "before":
            self._open(is_final)
        if self.stage == "inside":
            thought = self._inside(is_final)
        if self.stage == "after":
            self.rest = self.rest.lstrip("\n")
            if self.rest:
                self.stage = "words"
        if self.stage != "words":
            return thought, ""
        words, self.rest = self.rest, ""
        return thought, words

    def _open(self, is_final: bool) -> None:
        """Find out whether the text begins with a thought."""
        begin = self.rest.lstrip()
        if begin.startswith(self.opening):
            self.rest, self.stage = begin[len(self.opening) :], "inside"
        elif is_final or not self.opening.startswith(begin):
            self.stage = "inside" if self.inside else "words"

    def _inside(self, is_final: bool) -> str:
        if not self.begun:
            self.rest = self.rest.lstrip("\n")
            self.begun = bool(self.rest)
        thought, found, after = self.rest.partition(self.closing)
        if found:
            self.rest, self.stage = after, "after"
            return thought.rstrip("\n")
        if is_final:
            self.rest = ""
            return thought.rstrip("\n")
        keep = held_back(thought, (self.closing,))
        keep += len(thought[: len(thought) - keep]) - len(thought[: len(thought) - keep].rstrip("\n"))
        self.rest = thought[len(thought) - keep :]
        return thought[: len(thought) - keep]


@dataclass
class _Ending:
    """Takes a literal text off the end of the words."""

    after: str
    held: str = ""

    def read(self, text: str) -> str:
        text = self.held + text
        keep = held_back(text, (self.after,), whole=True) if self.after else 0
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        return "" if self.held == self.after else self.held


class _CallReader:
    """Parts words and calls. Whitespace around calls, and in front of the first one, belongs to the layout."""

    def __init__(self, form: ToolFormat, tools: Sequence[ToolSpec]) -> None:
        self.num_calls = 0
        self._format = form
        self._functions = {tool.name: tool.parameters for tool in tools}
        self._openers = form.find_openers(self._functions)
        self._line_openers = form.find_line_openers(self._functions)
        self._text = ""
        self._from = 0
        self._blank = True
        self._after_call = False
        self._at_line_start = True
        self._retry_at = 0

    def read(self, text: str, *, is_final: bool) -> list[str | ToolCall]:
        """The words and calls that became certain."""
        self._text += text
        parts: list[str | ToolCall] = []
        while (at := self._next_opener()) is not None:
            pending = self._text[at:]
            if len(pending) < self._retry_at and not is_final:
                return [*parts, self._release(at)]
            verdict = self._format.match(pending, self._functions, is_final=is_final)
            self._retry_at = len(pending) + 1 + len(pending) // _RETRY if verdict == "more" else 0
            if isinstance(verdict, Found):
                parts += [self._words_before(at), *verdict.calls]
                self._text, self._from = self._text[at + verdict.length :], 0
                self._blank = self._after_call = True
            elif verdict == "more" and not is_final:
                return [*parts, self._release(at)]
            else:
                self._from = at + 1
        if is_final:
            left_over = self._text
            self._text = ""
            is_layout = self._after_call and self._blank and self._is_blank(left_over)
            return [*parts, "" if is_layout else left_over]
        parts.append(self._release(len(self._text) - self._num_held()))
        return parts

    def _next_opener(self) -> int | None:
        """Where the next text stands with which a call may begin."""
        found = [self._find(opener, False) for opener in self._openers]
        found += [self._find(opener, True) for opener in self._line_openers]
        return min((place for place in found if place is not None), default=None)

    def _find(self, opener: str, at_line_start: bool) -> int | None:
        at = self._text.find(opener, self._from)
        while at >= 0 and at_line_start and not self._begins_line(at):
            at = self._text.find(opener, at + 1)
        return at if at >= 0 else None

    def _begins_line(self, at: int) -> bool:
        before = self._text[:at]
        if not before:
            return self._blank or self._at_line_start
        return before.endswith("\n") or (self._blank and self._is_blank(before))

    def _is_blank(self, text: str) -> bool:
        return not text.strip().strip(self._format.between if self._after_call else "").strip()

    def _words_before(self, at: int) -> str:
        words = self._text[:at]
        if self._blank and self._is_blank(words):
            return ""
        return words.removesuffix(self._format.separator)

    def _release(self, end: int) -> str:
        """Give away words up to `end`, but for what would be taken off if a call followed."""
        words = self._text[:end]
        if self._blank and self._is_blank(words):
            return ""
        end -= held_back(words, (self._format.separator,), whole=True)
        words, self._text = self._text[:end], self._text[end:]
        self._from = max(0, self._from - end)
        if words:
            self._blank, self._at_line_start = False, words.endswith("\n")
        return words

    def _num_held(self) -> int:
        """How many characters at the end may be the beginning of an opener."""
        return held_back(self._text[self._from :], (*self._openers, *self._line_openers))


def held_back(text: str, markers: Iterable[str], *, whole: bool = False) -> int:
    """The length of the longest end of `text` with which a marker begins; all of a marker counts when `whole`."""
    longest = 0
    for marker in markers:
        for size in range(min(len(marker) if whole else len(marker) - 1, len(text)), longest, -1):
            if text.endswith(marker[:size]):
                longest = size
                break
    return longest
