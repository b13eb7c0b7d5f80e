"""Sampled answers on disk, for those who ask for them: `samples.jsonl` in the run folder, one answer per line.

Prompts may be private, so nothing is written unless `log_completions: true`. A resumed run takes back what it wrote
after the step that it goes on from, so that no step stands in the file twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tunesmith.train.rewards.combine import Scored
from tunesmith.train.rewards.sample import Sample

SAMPLES_FILE = "samples.jsonl"


class SampleLog:
    """Writes the first answers of a step.

    Args:
        num_answers: how many of each step.
    """

    def __init__(self, folder: Path, num_answers: int) -> None:
        self._file = folder / SAMPLES_FILE
        self._num_answers = num_answers
        self._is_open = False

    def write(self, step: int, samples: Sequence[Sample], scored: Scored) -> None:
        """Append the first answers of step `step`, counted from 1."""
        if not self._is_open:
            self._forget_from(step)
            self._is_open = True
        lines = []
        for index, sample in enumerate(samples[: self._num_answers]):
            record = {
                "step": step,
                "prompt": sample.prompt_text,
                "completion": sample.completion_text,
                "finished": sample.finished,
                "reward": scored.totals[index],
                "rewards": {name: scores[index] for name, scores in scored.by_source.items()},
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        with self._file.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def _forget_from(self, step: int) -> None:
        """Take back what an earlier process wrote of this step and later ones."""
        if not self._file.is_file():
            return
        lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < step]
        self._file.write_text("".join(kept), encoding="utf-8")
