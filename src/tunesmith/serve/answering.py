"""One or several answers on their way, read as one stream: what terminal and web page show while a model speaks.

Every question is submitted at once, so that the engine computes them in one batch; their tokens arrive in one queue.
`stop` may be called from any thread (a button, a tab that closes): the engine ends the work, and what has been said
stays.
"""

from __future__ import annotations

import queue
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from tunesmith.errors import UserError
from tunesmith.infer.engine import Engine, Event, FinishReason, SamplingParams, StreamPiece, Ticket
from tunesmith.render import Renderer
from tunesmith.render.reader import AnswerReader, ContentDelta, Delta, ReasoningDelta
from tunesmith.types import Message, ToolCall, ToolSpec


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that waits for an answer, who is asked, and how."""

    messages: tuple[Message, ...]
    params: SamplingParams
    tools: tuple[ToolSpec, ...] = ()
    model: str | None = None


@dataclass
class Draft:
    """An answer as far as it has come.

    `ended` is why the model stopped by itself, None while it speaks or when it was stopped. `text` is all that was
    generated, markers of thoughts and calls included.
    """

    reader: AnswerReader
    text: str = ""
    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    ended: FinishReason | None = None
    error: UserError | None = None

    @property
    def is_running(self) -> bool:
        """Whether more may come."""
        return self.ended is None and self.error is None

    def add(self, piece: StreamPiece) -> list[Delta]:
        """Take one token in; returns what became readable with it."""
        self.text += piece.text
        self.num_tokens += 1
        self.ended = piece.finish_reason
        deltas = self.reader.feed(piece.text)
        if self.ended is not None:
            deltas = [*deltas, *self.reader.finish()]
        for delta in deltas:
            self._take(delta)
        return deltas

    def _take(self, delta: Delta) -> None:
        if isinstance(delta, ContentDelta):
            self.content += delta.text
        elif isinstance(delta, ReasoningDelta):
            self.reasoning += delta.text
        elif delta.index == len(self.calls):
            self.calls.append(ToolCall(delta.name, delta.arguments, delta.id))
        else:
            call = self.calls[delta.index]
            self.calls[delta.index] = replace(call, arguments=call.arguments + delta.arguments)

    @property
    def message(self) -> Message:
        """What can be shown by now."""
        return Message("assistant", self.content, reasoning=self.reasoning or None, tool_calls=tuple(self.calls))


class Answering:
    """Answers to several questions, generated together.

    Args:
        questions: answered by one engine at the same time; `drafts` has one entry for each, in this order.

    Raises: as `Renderer.prompt` and `Engine.submit`, for the first question that is refused; none is then asked.
    """

    def __init__(self, engine: Engine, renderer: Renderer, questions: Sequence[Question]) -> None:
        self.renderer, self.questions = renderer, tuple(questions)
        self.drafts = [Draft(renderer.reader(question.tools)) for question in questions]
        self._events: queue.SimpleQueue[tuple[int, Event] | None] = queue.SimpleQueue()
        self._tickets: list[Ticket] = []
        self.was_stopped = False
        prompts = [renderer.prompt(question.messages, question.tools) for question in questions]
        try:
            for place, (question, prompt_ids) in enumerate(zip(questions, prompts, strict=True)):
                self.drafts[place].num_prompt_tokens = len(prompt_ids)
                deliver = partial(self._deliver, place)
                self._tickets.append(engine.submit(prompt_ids, question.params, deliver, question.model))
        except UserError:
            self._cancel()
            raise

    def _deliver(self, place: int, event: Event) -> None:
        self._events.put((place, event))

    def updates(self) -> Generator[None, None, None]:
        """Yield whenever `drafts` has grown, until all have ended or `stop`; closing the generator stops them.

        Raises: what the engine failed with, when it is no UserError (those stay in `Draft.error`).
        """
        try:
            while not self.was_stopped and any(draft.is_running for draft in self.drafts):
                self._take(self._events.get())
                while not self._events.empty():
                    self._take(self._events.get())
                yield
        finally:
            self._cancel()

    def _take(self, arrived: tuple[int, Event] | None) -> None:
        if arrived is None:
            return
        place, event = arrived
        if isinstance(event, UserError):
            self.drafts[place].error = event
        elif isinstance(event, Exception):
            raise event
        elif self.drafts[place].is_running:
            self.drafts[place].add(event)

    def stop(self) -> None:
        """End what is still running; idempotent, from any thread."""
        self.was_stopped = True
        self._cancel()
        self._events.put(None)

    def _cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    def answer(self, place: int) -> Message:
        """The whole answer to a question, as the renderer reads it back; for when `updates` has ended."""
        return self.renderer.parse(self.drafts[place].text, self.questions[place].tools)
