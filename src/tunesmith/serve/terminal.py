"""The terminal chat: type, read the streamed answer, go on.

In a terminal it shows `User: ` and `Assistant: `. With piped input it is made for scripts: each line is a question,
each answer goes to stdout, everything else to stderr, and the exit code is 0 at the end of input (2 if a question
could not be answered). Ctrl-C stops an answer; a second one leaves.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from tunesmith.config.resolve import Resolved
from tunesmith.errors import ConfigError, UserError
from tunesmith.infer.engine import Engine, FinishReason, SamplingParams, StreamPiece, sampling_from_config
from tunesmith.infer.session import Session, open_session
from tunesmith.render import Renderer
from tunesmith.serve.settings import change, describe
from tunesmith.types import Message

HELP = """\
/clear            forget the conversation (the system text stays)
/system TEXT      set the system text and start anew; without TEXT: remove it
/set key=value    change temperature, top_p, top_k, max_new_tokens, do_sample, repetition_penalty, seed
/save FILE.jsonl  append the conversation to a file, as one line of OpenAI messages
/help             this list
/exit             leave (also: exit, Ctrl-D)"""


def chat(resolved: Resolved) -> int:
    """Talk to the model that `resolved` names until the input ends; returns the exit code."""
    _prepare_streams()
    interactive = sys.stdin.isatty()
    session = open_session(resolved, say=lambda line: print(line, file=sys.stderr, flush=True))
    for note in (*resolved.notes, *session.notes):
        print(f"note: {note}", file=sys.stderr)
    return make_terminal(session, interactive=interactive).run()


def make_terminal(session: Session, *, interactive: bool) -> Terminal:
    """A terminal on stdin and stdout for an open session."""
    return Terminal(
        engine=session.engine,
        renderer=session.renderer,
        params=sampling_from_config(session.config, session.renderer.stop_ids, session.renderer.visible_special_ids),
        read_line=_prompted_input if interactive else _piped_input,
        answers=sys.stdout,
        remarks=sys.stdout if interactive else sys.stderr,
        interactive=interactive,
    )


class _Leave(Exception):
    """The user has asked to leave."""


@dataclass
class Terminal:
    """One conversation, its settings, and where it is read from and written to.

    Args:
        read_line: the next line without its line end. Raises EOFError at the end of input.
        answers: where answers go; `remarks`: where everything else goes.
        interactive: whether a person sits there: prompts are shown, and mistakes do not change the exit code.
    """

    engine: Engine
    renderer: Renderer
    params: SamplingParams
    read_line: Callable[[], str]
    answers: TextIO
    remarks: TextIO
    interactive: bool
    history: list[Message] = field(default_factory=list)
    num_answers: int = 0
    exit_code: int = 0
    was_interrupted: bool = False

    def run(self) -> int:
        """Read and answer until the input ends, `exit`, or Ctrl-C twice; returns the exit code."""
        if self.interactive:
            self._remark("Type a message, /help for commands, exit to leave.")
        while True:
            try:
                line = self.read_line()
                self.was_interrupted = False
                self._take(line)
            except (EOFError, _Leave):
                return self.exit_code
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self._remark("")
                if self.was_interrupted:
                    return self.exit_code
                self.was_interrupted = True
                self._remark("(Ctrl-C again, or exit, to leave)")
            except UserError as error:
                self._remark(error.render())
                self.exit_code = 0 if self.interactive else error.exit_code

    def _take(self, line: str) -> None:
        """Obey a command, or answer."""
        text = line.strip()
        word, _, rest = line.rstrip().partition(" ")
        if text in ("clear", "exit"):
            word = f"/{text}"
        if word in _COMMANDS:
            _COMMANDS[word](self, rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            raise ConfigError(
                f"no command {word}", fix="/help lists the commands. To send this as a message, begin it with a space."
            )
        elif text:
            self._answer(text)

    def _answer(self, text: str) -> None:
        """Ask the model. The question and its answer join the history, unless the prompt is refused."""
        turns = [*self.history, Message("user", text)]
        prompt_ids = self.renderer.prompt(turns)
        params = self.params
        if params.seed is not None:  # each answer draws anew, and the whole conversation can still be repeated
            params = replace(params, seed=params.seed + self.num_answers)
        parts, reason = self._show(self.engine.stream(prompt_ids, params))
        self.history = [*turns, self.renderer.parse("".join(parts))]
        self.num_answers += 1
        if reason == "length":
            is_full = len(prompt_ids) + len(parts) >= self.engine.context_length
            cause = "the context is full, /clear starts anew" if is_full else "max_new_tokens is reached"
            self._remark(f"(the answer is cut: {cause})")

    def _show(self, pieces: Generator[StreamPiece, None, None]) -> tuple[list[str], FinishReason | None]:
        """Print an answer as it comes; returns its parts and why it ended (None: Ctrl-C)."""
        parts: list[str] = []
        reason = None
        self._write("Assistant: " if self.interactive else "")
        try:
            for piece in pieces:
                self._write(piece.text)
                parts.append(piece.text)
                reason = piece.finish_reason
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            self.was_interrupted = True
        finally:
            pieces.close()
            self._write("\n")
        return parts, reason

    def _write(self, text: str) -> None:
        self.answers.write(text)
        self.answers.flush()

    def _remark(self, text: str) -> None:
        print(text, file=self.remarks, flush=True)

    def clear(self, _: str = "") -> None:
        """Forget all turns but the system text."""
        self.history = [message for message in self.history if message.role == "system"]
        self._remark("(conversation cleared)")

    def system(self, text: str) -> None:
        """Set the system text, or remove it, and start anew."""
        self.history = [Message("system", text)] if text else []
        self._remark("(system text set, conversation cleared)" if text else "(system text removed)")

    def set(self, assignment: str) -> None:
        """Change one sampling setting; show all."""
        if assignment:
            self.params, key = change(self.params, assignment)
            self.num_answers = 0 if key == "seed" else self.num_answers
        self._remark(describe(self.params))

    def save(self, name: str) -> None:
        """Append the conversation to a JSON lines file. Raises: ConfigError when it cannot be written."""
        if not name or not any(message.role == "assistant" for message in self.history):
            raise ConfigError(
                "nothing was saved", why="" if name else "No file is named.", fix="Talk first, then: /save chat.jsonl"
            )
        path = Path(name).expanduser()
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"messages": [_as_openai(message) for message in self.history]}, ensure_ascii=False)
                    + "\n"
                )
        except OSError as error:
            raise ConfigError(
                f"cannot write {path}", why=error.strerror or str(error), fix="Name another file."
            ) from error
        self._remark(f"(saved to {path})")

    def help(self, _: str = "") -> None:
        """List the commands."""
        self._remark(HELP)

    def leave(self, _: str = "") -> None:
        """End the chat."""
        raise _Leave


_COMMANDS: dict[str, Callable[[Terminal, str], None]] = {
    "/clear": Terminal.clear,
    "/exit": Terminal.leave,
    "/system": Terminal.system,
    "/set": Terminal.set,
    "/save": Terminal.save,
    "/help": Terminal.help,
}


def _as_openai(message: Message) -> dict[str, str]:
    row = {"role": message.role, "content": message.content}
    if message.reasoning:
        row["reasoning_content"] = message.reasoning
    return row


def _prepare_streams() -> None:
    """Let a byte that is not UTF-8, or a character the terminal cannot show, spoil one line and not the chat."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace"), (sys.stderr, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _piped_input() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return _checked(line)


def _prompted_input() -> str:
    with contextlib.suppress(ImportError):  # line editing and history, where Python has them
        import readline  # noqa: F401
    return _checked(input("User: "))


def _checked(line: str) -> str:
    """`line`, when it is text. Raises: ConfigError for bytes that are not UTF-8."""
    try:
        line.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "the line is not UTF-8 and was skipped", fix="Set the terminal, or convert the file, to UTF-8."
        ) from None
    return line.rstrip("\n")
