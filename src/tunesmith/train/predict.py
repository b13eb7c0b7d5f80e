"""`do_predict`: what the trained model says of every evaluation row, written down when training ends.

`generated_predictions.jsonl` has a line per row, in the order of the rows (of several sets one after the other), and
`predict_results.json` the metrics over them under `predict_` names, as the public tool writes them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tunesmith.model.evaluating import evaluating
from tunesmith.train.evaluate import Evaluator

PREDICTIONS, PREDICT_RESULTS, PREDICT_STATE = (
    "generated_predictions.jsonl",
    "predict_results.json",
    "predict_state.json",
)
_DIGITS = 6


def predict(evaluator: Evaluator, scorer: nn.Module) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The lines, and the metrics with `predict_runtime` (seconds); all ranks take part and get the same."""
    module: nn.Module = getattr(scorer, "module", scorer)
    started_s = time.monotonic()
    lines: list[dict[str, Any]] = []
    with evaluating(module):
        for store in evaluator.sets.values():
            lines += evaluator.stage.predict(module, store, evaluator.runtime, evaluator.micro_batch_tokens)
    elapsed_s = max(time.monotonic() - started_s, 1e-9)
    metrics = {f"predict_{name}": value for name, value in evaluator.stage.judge(lines).items()}
    speed = {"predict_runtime": round(elapsed_s, 4), "predict_samples_per_second": round(len(lines) / elapsed_s, 3)}
    return lines, {**metrics, **speed}


def write_predictions(folder: Path, lines: list[dict[str, Any]], metrics: Mapping[str, float]) -> None:
    """The two files."""
    rounded = [{name: round(v, _DIGITS) if isinstance(v, float) else v for name, v in line.items()} for line in lines]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rounded)
    (folder / PREDICTIONS).write_text(text, encoding="utf-8")
    (folder / PREDICT_RESULTS).write_text(json.dumps(dict(metrics), indent=2) + "\n", encoding="utf-8")
