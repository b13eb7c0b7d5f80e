"""`tunesmith predict` and `do_predict`: the model's answer to every row, written as it comes, judged at the end.

Order: which model, renderer, rows, what an earlier try has left, and only then the weights; so a mistake in the data
or a changed setting is told within seconds. Each finished row is appended to `generated_predictions.jsonl` at once;
metrics go to `predict_results.json` and into `all_results.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.config.resolve import Resolved
from tunesmith.evaluate.answer import Answer, answer_rows
from tunesmith.evaluate.identity import identify, model_to_ask
from tunesmith.evaluate.journal import PREDICTIONS, ROW, Journal, journal_of
from tunesmith.evaluate.progress import Progress
from tunesmith.evaluate.results import judge, speed_of, write_results
from tunesmith.evaluate.rows import PredictRow, RowsToAnswer, read_rows
from tunesmith.evaluate.scores import predict_scores
from tunesmith.evaluate.text_metrics import require_metrics
from tunesmith.infer.engine import Completion, SamplingParams, sampling_from_config
from tunesmith.infer.locate import locate
from tunesmith.infer.session import open_renderer, open_session
from tunesmith.render import Renderer

Say = Callable[[str], None]


def predict(resolved: Resolved, say: Say | None = None) -> int:
    """Answer (stage rm: score) every row and judge the answers; returns the exit code, 0.

    Raises: UserError for anything that the user can put right; what was answered before stays.
    """
    tell = say or _print
    for note in resolved.notes:
        tell(f"note: {note}")
    if resolved.config.stage == "rm":
        return predict_scores(resolved, tell)
    return Prediction.prepare(resolved, tell).run()


def _print(line: str) -> None:
    print(line, flush=True)


@dataclass
class Prediction:
    """One prediction that is ready to begin or to go on."""

    resolved: Resolved
    folder: Path
    params: SamplingParams
    rows: RowsToAnswer
    journal: Journal
    say: Say

    @classmethod
    def prepare(cls, resolved: Resolved, say: Say) -> Prediction:
        """Everything but the weights."""
        asked = model_to_ask(resolved)
        located = locate(asked)
        config = replace(asked.config, model_name_or_path=located.model)
        renderer = open_renderer(config, located)
        rows = read_rows(config, renderer, resolved.config_dir)
        for note in rows.notes:
            say(f"note: {note}")
        if any(row.label is not None for row in rows.rows):
            require_metrics()
        params = sampling_to_predict(config, renderer)
        folder = Path(str(resolved.config.output_dir))
        identity = {**identify(config, located, params), **rows.fingerprint}
        journal = journal_of(resolved.config, identity, len(rows.rows))
        for note in journal.notes:
            say(f"note: {note}")
        return cls(asked, folder, params, rows, journal, say)

    def run(self) -> int:
        """Answer what is left, then judge."""
        num_kept = self.journal.num_kept
        left = [row for row in self.rows.rows if row.number not in self.journal.lines]
        if num_kept:
            self.say(f"{num_kept:,} of {len(self.rows.rows):,} rows are answered already, {len(left):,} are left")
        seconds = self._answer(left) if left else 0.0
        lines = self.journal.finish()
        metrics = judge(lines, self.rows.datasets)
        num_tokens = sum(self.journal.lines[row.number]["num_new_tokens"] for row in left)
        for line in write_results(self.folder, metrics, speed_of(seconds, len(left), num_tokens)):
            self.say(line)
        self.say(f"{len(lines):,} lines in {self.folder / PREDICTIONS}")
        return 0

    def _answer(self, left: list[PredictRow]) -> float:
        """Answer these rows; returns the seconds that it took, loading the model not included."""
        session = open_session(self.resolved, self.say)
        for note in session.notes:
            self.say(f"note: {note}")
        progress = Progress(len(left), self.say)
        started_s = time.monotonic()
        try:
            for row, answer in answer_rows(session.engine, left, self.params):
                line = line_of(row, answer, session.renderer)
                self.journal.append(line)
                progress.add(line["num_new_tokens"])
        finally:
            progress.close()
            self.journal.close()
            session.engine.close()
            if len(self.journal.lines) < len(self.rows.rows):
                self.say(f"{len(self.journal.lines):,} rows are kept; the same command goes on from there")
        return time.monotonic() - started_s


def sampling_to_predict(config: Config, renderer: Renderer) -> SamplingParams:
    """The sampling settings; documents (stage pt) also end where the tokenizer ends a document."""
    end = (renderer.text_end_id,) if config.stage == "pt" and renderer.text_end_id is not None else ()
    return sampling_from_config(config, tuple(dict.fromkeys((*renderer.stop_ids, *end))))


def line_of(row: PredictRow, answer: Answer, renderer: Renderer) -> dict[str, Any]:
    """The line of a finished row: the public tool's three keys first, then where the row stands and how it ended."""
    line: dict[str, Any] = {
        "prompt": renderer.decode(row.prompt_ids, skip_special_tokens=False),
        "predict": answer.text if isinstance(answer, Completion) else "",
        "label": row.label or "",
        ROW: row.number,
        "dataset": row.ref.dataset,
        "file": row.ref.file,
        "line": row.ref.line,
        "index": row.ref.index,
        "has_label": row.label is not None,
        "num_prompt_tokens": len(row.prompt_ids),
    }
    if isinstance(answer, Completion):
        return {**line, "num_new_tokens": len(answer.token_ids), "finish_reason": answer.finish_reason}
    return {**line, "num_new_tokens": 0, "finish_reason": "unanswered", "why": answer}
