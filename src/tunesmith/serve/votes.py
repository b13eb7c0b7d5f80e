"""What people thought of answers, one line of JSON each: votes, rewritten answers, choices between two answers.

Nothing is written but what a person did on purpose: no line for an answer that nobody judged. A line holds all that
a training row needs (`serve/feedback.py` makes rows of it): the conversation in front of the answer, the tools, the
answer, the verdict, and with what model and sampling settings the answer was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tunesmith.infer.engine import SamplingParams
from tunesmith.serve.answering import Question
from tunesmith.serve.settings import SETTINGS
from tunesmith.serve.transcript import append, conversation_row, message_row
from tunesmith.types import Message

FILE_NAME = "webchat_feedback.jsonl"


def feedback_file(run_dir: Path | None) -> Path:
    """Where verdicts are kept: in the folder of the run that made the model, else in the working directory."""
    return (run_dir or Path()) / FILE_NAME


@dataclass(frozen=True, slots=True)
class Made:
    """An answer as the model gave it, and to what."""

    question: Question
    answer: Message


class FeedbackFile:
    """Appends verdicts to a file. `append` raises ConfigError when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_written = 0

    def vote(self, made: Made, is_good: bool | None) -> None:
        """A thumb up or down; None takes an earlier one back."""
        self._write("vote", made, {"vote": {True: "up", False: "down", None: "none"}[is_good]})

    def edit(self, made: Made, written: Message) -> None:
        """The answer as a person would rather have had it."""
        self._write("edit", made, {"edited": message_row(written)})

    def choice(self, better: Made, worse: Made) -> None:
        """One of two answers to the same conversation was preferred; `answer` is the better one."""
        more = {"rejected": message_row(worse.answer), "rejected_model": worse.question.model}
        self._write("choice", better, more)

    def _write(self, kind: str, made: Made, verdict: dict[str, Any]) -> None:
        row = {
            "kind": kind,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": made.question.model,
            "sampling": _sampling(made.question.params),
            **conversation_row(made.question.messages, made.question.tools),
            "answer": message_row(made.answer),
            **verdict,
        }
        append(self.path, row)
        self.num_written += 1


def _sampling(params: SamplingParams) -> dict[str, Any]:
    return {key: getattr(params, key) for key in SETTINGS}
