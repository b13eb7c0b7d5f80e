"""A conversation in the terminal: what was said, who answers and how, and showing the answer as it comes.

`commands.py` changes it, `terminal.py` reads what is typed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TextIO

from tunesmith.infer.engine import Engine, SamplingParams
from tunesmith.render import Renderer
from tunesmith.serve.answering import Answering, Draft, Question
from tunesmith.serve.lines import ReadLine
from tunesmith.serve.screen import Screen, call_text, dims_text
from tunesmith.serve.thinking import Renderers
from tunesmith.serve.turns import Turns, open_calls
from tunesmith.types import Message, ToolSpec


class Leave(Exception):
    """The user has asked to leave."""


@dataclass
class Dialogue:
    """One conversation, its settings, and where it is read from and written to.

    Attributes:
        read_line: the next line without its line end. Raises EOFError at the end of input.
        answers: where answers go; `remarks`: where everything else goes.
        interactive: whether a person sits there: prompts are shown, and mistakes do not change the exit code.
        has_more: whether more input has arrived already: a pasted text is one message.
        model: who answers; None for the engine's first. `compared`: who answers beside it.
        thinking: None for the configuration's choice.
    """

    engine: Engine
    renderer: Renderer
    params: SamplingParams
    read_line: ReadLine
    answers: TextIO
    remarks: TextIO
    interactive: bool
    has_more: Callable[[], bool] = lambda: False
    lang: str = "en"
    history: Turns = ()
    tools: tuple[ToolSpec, ...] = ()
    model: str | None = None
    compared: str | None = None
    thinking: bool | None = None
    num_answers: int = 0
    exit_code: int = 0
    was_interrupted: bool = False
    renderers: Renderers = field(init=False)

    def __post_init__(self) -> None:
        self.renderers = Renderers(self.renderer)
        self._screen = Screen(self.answers, dims=self.interactive and dims_text(self.answers))

    def answer(self, turns: Sequence[Message]) -> None:
        """Ask the model. The turns and its answer become the history, unless the prompt is refused."""
        question = Question(tuple(turns), self._params(), self.tools, self.model)
        if self.compared is not None:
            answer, draft, num_prompt = self._compare(question)
        else:
            answer, draft, num_prompt = self._stream(question)
        self.history = (*turns, answer)
        self.num_answers += 1
        if draft.ended == "length":
            is_full = num_prompt + draft.num_tokens >= self.engine.context_length
            cause = "the context is full, /clear starts anew" if is_full else "max_new_tokens is reached"
            self.remark(f"(the answer is cut: {cause})")
        for call in open_calls(self.history):
            self.remark(f"(the model calls {call_text(call)}: type the tool's result)")

    def _params(self) -> SamplingParams:
        if self.params.seed is None:
            return self.params
        # each answer draws anew, and the whole conversation can still be repeated
        return replace(self.params, seed=self.params.seed + self.num_answers)

    def _stream(self, question: Question) -> tuple[Message, Draft, int]:
        """One model's answer, printed as it comes; Ctrl-C ends it and keeps what was said."""
        renderer = self.renderers.of(self.thinking)
        prompt_ids = renderer.prompt(question.messages, question.tools)
        chosen = () if question.model is None else (question.model,)
        pieces = self.engine.stream(prompt_ids, question.params, *chosen)
        draft = Draft(renderer.reader(question.tools))
        self._screen.write("Assistant: " if self.interactive else "")
        try:
            for piece in pieces:
                deltas = draft.add(piece)
                if self.interactive:
                    self._screen.show(deltas)
                else:
                    self._screen.write(piece.text)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            self.was_interrupted = True
        finally:
            pieces.close()
            self._screen.end()
        return renderer.parse(draft.text, question.tools), draft, len(prompt_ids)

    def _compare(self, question: Question) -> tuple[Message, Draft, int]:
        """Both models' answers, the conversation's own first; only that one is kept."""
        both = [question, replace(question, model=self.compared)]
        answering = Answering(self.engine, self.renderers.of(self.thinking), both)
        names = [question.model or self.engine.models[0], str(self.compared)]
        try:
            self._screen.compare(answering, names)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            answering.stop()
            self.was_interrupted = True
        for draft in answering.drafts:
            if draft.error:
                raise draft.error
        first = answering.drafts[0]
        return answering.answer(0), first, first.num_prompt_tokens

    def remark(self, text: str) -> None:
        """Say something that is not an answer."""
        print(text, file=self.remarks, flush=True)
