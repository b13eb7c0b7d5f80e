"""The terminal chat: type, read the streamed answer, go on.

In a terminal it shows `User: ` and `Assistant: `; a message may have several lines (see `serve/lines.py`). With piped
input it is made for scripts: each line is a question, each answer goes to stdout as the model wrote it, everything else
to stderr, and the exit code is 0 at the end of input (2 if a question could not be answered). Ctrl-C stops an answer; a
second one leaves. The commands are in `serve/commands.py`.
"""

from __future__ import annotations

import io
import sys

from tunesmith.config.resolve import Resolved
from tunesmith.errors import ConfigError, UserError
from tunesmith.infer.engine import sampling_from_config
from tunesmith.infer.session import Session, open_session
from tunesmith.serve.commands import COMMANDS
from tunesmith.serve.dialogue import Dialogue, Leave
from tunesmith.serve.lines import input_is_waiting, piped_line, read_message, typed_line
from tunesmith.serve.turns import open_calls
from tunesmith.types import Message


def chat(resolved: Resolved, lang: str = "en") -> int:
    """Talk to the model that `resolved` names until the input ends; returns the exit code."""
    _prepare_streams()
    interactive = sys.stdin.isatty()
    session = open_session(resolved, say=lambda line: print(line, file=sys.stderr, flush=True))
    for note in (*resolved.notes, *session.notes):
        print(f"note: {note}", file=sys.stderr)
    return make_terminal(session, interactive=interactive, lang=lang).run()


def make_terminal(session: Session, *, interactive: bool, lang: str = "en") -> Terminal:
    """A terminal on stdin and stdout for an open session."""
    return Terminal(
        engine=session.engine,
        renderer=session.renderer,
        params=sampling_from_config(session.config, session.renderer.stop_ids, session.renderer.visible_special_ids),
        read_line=typed_line if interactive else piped_line,
        answers=sys.stdout,
        remarks=sys.stdout if interactive else sys.stderr,
        interactive=interactive,
        has_more=input_is_waiting if interactive else lambda: False,
        lang=lang,
    )


class Terminal(Dialogue):
    """Reads what is typed or piped, and obeys or answers."""

    def run(self) -> int:
        """Read and answer until the input ends, `exit`, or Ctrl-C twice; returns the exit code."""
        if self.interactive:
            self.remark(_WELCOME[self.lang])
        while True:
            try:
                text = self._read()
                self.was_interrupted = False
                self.take(text)
            except (EOFError, Leave):
                return self.exit_code
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self.remark("")
                if self.was_interrupted:
                    return self.exit_code
                self.was_interrupted = True
                self.remark("(Ctrl-C again, or exit, to leave)")
            except UserError as error:
                self.remark(error.render())
                self.exit_code = 0 if self.interactive else error.exit_code

    def _read(self) -> str:
        if not self.interactive:
            return self.read_line()
        calls = open_calls(self.history)
        return read_message(self.read_line, f"Result of {calls[0].name}: " if calls else "User: ", self.has_more)

    def take(self, text: str) -> None:
        """Obey a command, pass a tool's result on, or answer."""
        word, _, rest = text.rstrip().partition(" ")
        if text.strip() in ("clear", "exit"):
            word = f"/{text.strip()}"
        if word in COMMANDS:
            COMMANDS[word](self, rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            raise ConfigError(
                f"no command {word}", fix="/help lists the commands. To send this as a message, begin it with a space."
            )
        elif text.strip() and open_calls(self.history):
            self._take_result(text.strip())
        elif text.strip():
            self.answer((*self.history, Message("user", text.strip())))

    def _take_result(self, text: str) -> None:
        turns = (*self.history, Message("tool", text))
        if open_calls(turns):
            self.history = turns
        else:
            self.answer(turns)


_WELCOME = {
    "en": "Type a message, /help for commands, exit to leave.",
    "zh": "输入消息开始对话；/help 查看命令，exit 退出。",
}


def _prepare_streams() -> None:
    """Let a byte that is not UTF-8, or a character the terminal cannot show, spoil one line and not the chat."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace"), (sys.stderr, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
