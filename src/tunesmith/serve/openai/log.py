"""What the server writes about its work: a line per request, and failures without what the client sent.

A line has the method, the path, the status, the milliseconds and how many tokens went in and came out. The message of
an exception may hold a piece of a prompt, so of a failure only its type and the places in the code are written.
"""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass

ACCESS = logging.getLogger("tunesmith.serve.access")
_MAX_PATH = 200


@dataclass
class Record:
    """What is known of a request when it ends."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    client_left: bool = False


def log_access(method: str, path: str, status: int, seconds: float, record: Record) -> None:
    """One line for one request."""
    shown = path[:_MAX_PATH].encode("unicode_escape").decode("ascii")
    tokens = f" in={record.prompt_tokens} out={record.completion_tokens}" if record.prompt_tokens else ""
    ACCESS.info("%s %s %d %.0f ms%s", method, shown, status, seconds * 1000, tokens)


def log_failure(log: logging.Logger, error: BaseException) -> None:
    """An exception of ours: its type and where it was raised, never its message."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("request failed with %s (its message is not logged)\n%s", type(error).__name__, frames.rstrip())
