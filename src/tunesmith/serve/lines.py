"""Reading what a person types: one line, or several as one message.

Several lines are joined by a backslash at the end of a line, by `\"\"\"` before and after, or by being pasted at once.
A pipe is read line by line, whatever the lines hold: each is a question.
"""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Callable
from typing import Protocol

from tunesmith.errors import ConfigError

QUOTES = '"""'
CONTINUED = "... "


class ReadLine(Protocol):
    """Gives the next line without its line end; `prefill` stands there already, to be changed.

    Raises: EOFError at the end of input.
    """

    def __call__(self, prompt: str = "", prefill: str = "") -> str:
        """See the class."""


def read_message(read_line: ReadLine, prompt: str, has_more: Callable[[], bool]) -> str:
    """The next message of a person, line breaks inside it.

    Args:
        has_more: whether further input has arrived already (the rest of a pasted text).
    """
    text = read_line(prompt)
    if text.lstrip().startswith(QUOTES):
        return _quoted(text.lstrip()[len(QUOTES) :], read_line)
    while text.endswith("\\"):
        text = text[:-1] + "\n" + read_line(CONTINUED)
    while not text.startswith("/") and has_more():  # pasted commands stay commands
        text += "\n" + read_line()
    return text


def _quoted(text: str, read_line: ReadLine) -> str:
    while not text.rstrip().endswith(QUOTES):
        text += "\n" + read_line(CONTINUED)
    return text.rstrip()[: -len(QUOTES)].strip("\n")


def piped_line(prompt: str = "", prefill: str = "") -> str:
    """The next line of a pipe; nothing is shown."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return checked(line)


def typed_line(prompt: str = "", prefill: str = "") -> str:
    """The next line of a terminal, with line editing and history where Python has them."""
    try:
        import readline
    except ImportError:
        return checked(input(prompt))
    readline.set_startup_hook(lambda: readline.insert_text(prefill))
    try:
        return checked(input(prompt))
    finally:
        readline.set_startup_hook(None)


def input_is_waiting() -> bool:
    """Whether the terminal has more to read at once; False where that cannot be asked."""
    with contextlib.suppress(OSError, ValueError):
        return bool(select.select([sys.stdin], [], [], 0.02)[0])
    return False


def checked(line: str) -> str:
    """`line`, when it is text. Raises: ConfigError for bytes that are not UTF-8."""
    try:
        line.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "the line is not UTF-8 and was skipped", fix="Set the terminal, or convert the file, to UTF-8."
        ) from None
    return line.rstrip("\n")
