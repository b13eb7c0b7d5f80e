"""One person's conversation on the web page: what was said, what is being said, who answers, how it was judged.

No gradio here. The page calls these methods and shows `panes`; a method that makes the model speak is a generator that
yields whenever there is more to show. A room has one pane, or two to compare models: both are asked the same, each goes
on from its own answers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.errors import ConfigError, UserError
from tunesmith.infer.engine import Engine, FinishReason, SamplingParams
from tunesmith.serve.answering import Answering, Draft, Question
from tunesmith.serve.thinking import Renderers
from tunesmith.serve.transcript import conversation_row, read_row
from tunesmith.serve.turns import (
    Turns,
    edited,
    open_calls,
    system_text,
    up_to_question,
    with_system,
    without_last_question,
)
from tunesmith.serve.votes import FeedbackFile, Made
from tunesmith.types import Message, ToolSpec


@dataclass(frozen=True, slots=True)
class Wishes:
    """How the next answer is to be made: what stands in the boxes beside the conversation."""

    params: SamplingParams
    system: str = ""
    tools: tuple[ToolSpec, ...] = ()
    thinking: bool | None = None


@dataclass
class Pane:
    """One conversation with one model.

    Attributes:
        turns: what was said, without the system text (which stands in a box and can change at any time).
        made: for answers that the model gave (by index of the turn): what it was asked and what it said.
        votes: the thumbs, by index of the turn.
        draft: the answer that is being given.
        ended: why the last answer ended; None when it was stopped.
    """

    model: str
    turns: Turns = ()
    made: dict[int, Made] = field(default_factory=dict)
    votes: dict[int, bool] = field(default_factory=dict)
    draft: Draft | None = None
    ended: FinishReason | None = "stop"

    def go_back(self, turns: Sequence[Message]) -> None:
        """Keep only these first turns."""
        self.turns = tuple(turns)
        self.made = {index: made for index, made in self.made.items() if index < len(self.turns)}
        self.votes = {index: vote for index, vote in self.votes.items() if index < len(self.turns)}

    def copy(self, model: str) -> Pane:
        """The same conversation, to be continued by another model."""
        return Pane(model, self.turns, dict(self.made), dict(self.votes), ended=self.ended)


class Room:
    """The conversation of one browser tab.

    Args:
        engine, renderers: shared by all rooms.
        feedback: where votes, edits and choices are written.

    Attributes:
        settings: what stood in the page's boxes at the last answer, to be put there again when the page is reloaded.
    """

    def __init__(self, engine: Engine, renderers: Renderers, feedback: FeedbackFile) -> None:
        self.engine, self.renderers, self.feedback = engine, renderers, feedback
        self.panes = [Pane(engine.models[0])]
        self.num_answers = 0
        self.settings: tuple[Any, ...] = ()
        self._answering: Answering | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an answer is on its way."""
        return self._answering is not None

    @property
    def is_comparing(self) -> bool:
        """Whether two models are asked."""
        return len(self.panes) == 2

    def choose_model(self, place: int, name: str) -> None:
        """Let another model answer in a pane from now on. Raises: ConfigError when there is no such model."""
        if name not in self.engine.models:
            raise ConfigError(f"no model '{name}'", fix=f"Models: {', '.join(self.engine.models)}.")
        self.panes[place].model = name

    def compare(self, is_wanted: bool) -> None:
        """Open a second pane with the same conversation and another model, or close it."""
        self._check_idle()
        if not is_wanted:
            self.panes = self.panes[:1]
        elif not self.is_comparing:
            others = [name for name in self.engine.models if name != self.panes[0].model]
            if not others:
                raise ConfigError("there is only one model", why="base and tuned model are compared")
            self.panes.append(self.panes[0].copy(others[0]))

    def ask(self, text: str, wishes: Wishes) -> Generator[None, None, None]:
        """Say something and let the model(s) answer.

        Raises: ConfigError for an empty text, or while an answer is on its way; as `Answering` when the engine refuses,
        and then the question is not kept.
        """
        if not text.strip():
            raise ConfigError("the message is empty", fix="Write something.")
        yield from self._say(Message("user", text), wishes)

    def answer_call(self, text: str, wishes: Wishes) -> Generator[None, None, None]:
        """Give the result of the first open call; the model goes on when none is open any more. Raises: as `ask`."""
        if not self.open_calls():
            raise ConfigError("no tool call waits for a result")
        yield from self._say(Message("tool", text), wishes)

    def open_calls(self) -> list[str]:
        """The calls that wait for a result, as `name(arguments)`; in two panes, those of the first that has some."""
        found = next((calls for pane in self.panes if (calls := open_calls(pane.turns))), ())
        return [f"{call.name}({call.arguments})" for call in found]

    def _say(self, message: Message, wishes: Wishes) -> Generator[None, None, None]:
        self._check_idle()
        calling = [pane for pane in self.panes if open_calls(pane.turns)]
        panes = calling if message.role == "tool" else self.panes
        before = [pane.turns for pane in panes]
        for pane in panes:
            pane.turns = (*pane.turns, message)
        waiting = [pane for pane in panes if not open_calls(pane.turns)]
        if not waiting:
            yield
            return
        try:
            yield from self._answer(waiting, wishes)
        finally:
            for pane, turns in zip(panes, before, strict=True):
                if pane.turns and pane.turns[-1] is message and not open_calls(pane.turns):
                    pane.go_back(turns)  # nothing came of it

    def retry(self, place: int, index: int | None, wishes: Wishes) -> Generator[None, None, None]:
        """Answer anew: the answer at `index` (None: the last) and what follows it are replaced.

        The old answer is kept when nothing comes of it. Raises: ConfigError when there is no such answer; as `ask`.
        """
        self._check_idle()
        pane = self.panes[place]
        turns, made, votes = pane.turns, dict(pane.made), dict(pane.votes)
        pane.go_back(up_to_question(turns, index))
        kept = pane.turns
        try:
            yield from self._answer([pane], wishes)
        finally:
            if pane.turns == kept:
                pane.turns, pane.made, pane.votes = turns, made, votes

    def edit(self, place: int, index: int, text: str, wishes: Wishes) -> Generator[None, None, None]:
        """Change a turn. The model's answer: replaced, and written to the feedback file. A question: asked anew.

        Raises: ConfigError for an empty text; as `ask`.
        """
        self._check_idle()
        pane = self.panes[place]
        if not 0 <= index < len(pane.turns) or not text.strip():
            raise ConfigError("nothing was changed", why="the new text is empty", fix="Write a text.")
        before = pane.turns
        turn = before[index]
        if turn.content == text:
            return
        if turn.role == "assistant":
            pane.go_back(edited(before, index, text))
            pane.votes.pop(index, None)
            if index in pane.made:
                self.feedback.edit(pane.made[index], pane.turns[index])
            yield
            return
        made, votes = dict(pane.made), dict(pane.votes)
        pane.go_back(edited(before, index, text))
        asked = pane.turns
        try:
            yield from self._answer([pane], wishes)
        finally:
            if pane.turns == asked:
                pane.turns, pane.made, pane.votes = before, made, votes

    def undo(self) -> str:
        """Take the last question and all that followed back, in every pane; returns its text."""
        self._check_idle()
        text = ""
        for pane in self.panes:
            turns, text = without_last_question(pane.turns)
            pane.go_back(turns)
        return text

    def clear(self) -> None:
        """Begin anew; an answer on its way is stopped."""
        self.stop()
        self.panes = [Pane(pane.model) for pane in self.panes]
        self.num_answers = 0

    def stop(self) -> None:
        """End the answer on its way; what was said stays. From any thread."""
        answering = self._answering
        if answering is not None:
            answering.stop()

    def vote(self, place: int, index: int, is_good: bool | None) -> bool | None:
        """A thumb on an answer; the same thumb again takes it back, as None does. Returns the thumb that now stands.

        Raises: ConfigError when the model did not say this (it was edited or loaded).
        """
        pane = self.panes[place]
        made = pane.made.get(index)
        if made is None or made.answer != pane.turns[index]:
            raise ConfigError(
                "only an answer that a model gave here can be voted on", why="this text was edited or loaded"
            )
        if pane.votes.get(index) is is_good:
            is_good = None
        self.feedback.vote(made, is_good)
        if is_good is None:
            pane.votes.pop(index, None)
        else:
            pane.votes[index] = is_good
        return is_good

    def prefer(self, place: int) -> None:
        """The last answer in this pane is better than the other's; both panes go on from it.

        Raises: ConfigError when there are not two different answers to the same conversation.
        """
        self._check_idle()
        better, worse = self._last_made(place), self._last_made(1 - place)
        same = better and worse and better.question.messages == worse.question.messages
        if not better or not worse or not same or better.answer == worse.answer:
            raise ConfigError(
                "there is nothing to choose between",
                why="a choice needs two different answers to the same conversation",
                fix="Ask both models first.",
            )
        self.feedback.choice(better, worse)
        chosen = self.panes[place]
        self.panes[1 - place] = chosen.copy(self.panes[1 - place].model)

    def can_choose(self) -> bool:
        """Whether `prefer` has two answers to choose between."""
        if not self.is_comparing or self.is_busy:
            return False
        one, other = self._last_made(0), self._last_made(1)
        if one is None or other is None:
            return False
        return one.question.messages == other.question.messages and one.answer != other.answer

    def _last_made(self, place: int) -> Made | None:
        if not self.is_comparing:
            return None
        pane = self.panes[place]
        return pane.made.get(len(pane.turns) - 1)

    def row(self, system: str, tools: Sequence[ToolSpec]) -> dict[str, object]:
        """The conversation (of the first pane) as one line of a file."""
        return dict(conversation_row(with_system(self.panes[0].turns, system), tools))

    def load(self, row: dict[str, object], where: str) -> tuple[str, tuple[ToolSpec, ...]]:
        """Go on from a saved conversation, in every pane; returns its system text and tools. Raises: ConfigError."""
        self._check_idle()
        conversation = read_row(row, where)
        turns = tuple(turn for turn in conversation.messages if turn.role != "system")
        self.panes = [Pane(pane.model, turns) for pane in self.panes]
        return system_text(conversation.messages), conversation.tools

    def _check_idle(self) -> None:
        if self.is_busy:
            raise ConfigError("an answer is on its way", fix="Wait for it, or stop it.")

    def _answer(self, panes: Sequence[Pane], wishes: Wishes) -> Generator[None, None, None]:
        params = wishes.params
        if params.seed is not None:  # each answer draws anew, and the whole conversation can still be repeated
            params = replace(params, seed=params.seed + self.num_answers)
        questions = [
            Question(with_system(pane.turns, wishes.system), params, wishes.tools, pane.model) for pane in panes
        ]
        answering = Answering(self.engine, self.renderers.of(wishes.thinking), questions)
        self._answering = answering
        for pane, draft in zip(panes, answering.drafts, strict=True):
            pane.draft = draft
        try:
            yield
            for _ in answering.updates():
                yield
        finally:
            answering.stop()  # also where the reader left before the first token
            self._answering = None
            self.num_answers += 1
            for place, pane in enumerate(panes):
                _finish(pane, answering, place)
        _raise_first(answering.drafts)


def _finish(pane: Pane, answering: Answering, place: int) -> None:
    """Turn the draft of a pane into a turn, unless nothing was said."""
    draft, question = answering.drafts[place], answering.questions[place]
    pane.draft, pane.ended = None, draft.ended
    if draft.text or draft.ended is not None:
        answer = answering.answer(place)
        pane.made[len(pane.turns)] = Made(question, answer)
        pane.turns = (*pane.turns, answer)


def _raise_first(drafts: Sequence[Draft]) -> None:
    error: UserError | None = next((draft.error for draft in drafts if draft.error), None)
    if error:
        raise error
