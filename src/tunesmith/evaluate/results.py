"""What a prediction comes to: metrics over its lines, and the files that hold them.

Names and values are the public tool's (`predict_bleu-4`, `predict_rouge-1`, ... in percent, means over rows). Beside
them stand how many answers equal their label, how many ended by themselves and how many were cut at the token limit.
Rows that could not be answered count as empty answers. Several datasets: each again under `predict_NAME_...`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.evaluate.text_metrics import mean_metrics
from tunesmith.train.predict import PREDICT_RESULTS as RESULTS

ALL_RESULTS = "all_results.json"
_SPEED = ("predict_runtime", "predict_samples_per_second", "predict_tokens_per_second")
_DIGITS = 4


def judge(lines: Sequence[Mapping[str, Any]], datasets: Sequence[str]) -> dict[str, float]:
    """The metrics over all lines, and over those of each dataset where there are several."""
    results = _judge(lines, "predict_")
    if len(datasets) > 1:
        for name in datasets:
            own = [line for line in lines if line["dataset"] == name]
            results |= _judge(own, f"predict_{Path(name).stem}_")
    return results


def _judge(lines: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, float]:
    pairs = [(line["predict"], line["label"]) for line in lines if line["has_label"]]
    ends = [line["finish_reason"] for line in lines]
    found: dict[str, float] = {
        **mean_metrics(pairs),
        "stopped_percent": _percent(ends.count("stop"), len(ends)),
        "cut_percent": _percent(ends.count("length"), len(ends)),
        "num_rows": len(lines),
        "num_labels": len(pairs),
        "num_unanswered": ends.count("unanswered"),
    }
    return {prefix + name: value for name, value in found.items()}


def _percent(part: int, whole: int) -> float:
    return round(100 * part / max(whole, 1), _DIGITS)


def speed_of(seconds: float, num_rows: int, num_tokens: int = 0) -> dict[str, float]:
    """Time and rates of this try; nothing when it had no row to answer."""
    if not num_rows:
        return {}
    seconds = max(seconds, 1e-9)
    rates = {"predict_runtime": round(seconds, 4), "predict_samples_per_second": round(num_rows / seconds, 3)}
    return {**rates, "predict_tokens_per_second": round(num_tokens / seconds, 3)} if num_tokens else rates


def write_results(folder: Path, metrics: Mapping[str, float], speed: Mapping[str, float]) -> list[str]:
    """Write `predict_results.json`, join it into `all_results.json`; returns the lines to print.

    Args:
        speed: time and rates of this try; empty when every row was there already, and the earlier ones stay.
    """
    before = _read(folder / RESULTS)
    kept = {name: before[name] for name in _SPEED if name in before}
    results = {**metrics, **(speed or kept)}
    _write(folder / RESULTS, results)
    earlier = {key: value for key, value in _read(folder / ALL_RESULTS).items() if not key.startswith("predict_")}
    _write(folder / ALL_RESULTS, {**earlier, **results})
    width = max(map(len, results))
    return [f"  {name.ljust(width)}  {value:,.10g}" for name, value in results.items()]


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, results: Mapping[str, Any]) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(dict(results), indent=2) + "\n", encoding="utf-8")
    os.replace(part, file)
