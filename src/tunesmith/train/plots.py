"""Draws a metric over the steps, as logged and smoothed, into `training_METRIC.png`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average whose weight grows with the number of points, as readers of these plots know it.

    The weight of the past is 1.8 (sigmoid(0.05 n) - 0.5) for n points: 0.22 at 10, 0.76 at 50, 0.89 at 100.
    """
    if not values:
        return []
    weight = 1.8 * (1 / (1 + math.exp(-0.05 * len(values))) - 0.5)
    smoothed, last = [], values[0]
    for value in values:
        last = weight * last + (1 - weight) * value
        smoothed.append(last)
    return smoothed


def plot_metrics(history: Sequence[Mapping[str, Any]], folder: Path, keys: Sequence[str]) -> list[Path]:
    """One picture per metric that was logged at least twice. Returns the files written.

    Args:
        history: log records, each with `step`.
        keys: metrics to draw; those never logged are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    files = []
    for key in keys:
        points = [(record["step"], record[key]) for record in history if record.get(key) is not None]
        if len(points) < 2:
            continue
        steps, values = zip(*points, strict=True)
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, values, color="#1f77b4", alpha=0.4, label="logged")
        axes.plot(steps, smooth(values), color="#1f77b4", label="smoothed")
        axes.set(xlabel="step", ylabel=key.replace("_", " "), title=f"{key.replace('_', ' ')} of {folder.name}")
        axes.grid(alpha=0.25)
        axes.legend()
        file = folder / f"training_{key.replace('/', '_')}.png"
        figure.savefig(file, dpi=100)
        files.append(file)
    return files
