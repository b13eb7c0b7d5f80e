"""What a finished run says of itself: its result files, plots and card, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.config.resolve import Resolved
from tunesmith.data.plan import PlanSpec
from tunesmith.train.card import write_card
from tunesmith.train.folder import RUN_FILE, write_json
from tunesmith.train.plots import plot_metrics
from tunesmith.train.sinks import clock
from tunesmith.train.state import TrainerState

_NO_PLOT = {"eval_runtime", "eval_samples_per_second"}


def training_results(state: TrainerState, plan: PlanSpec, num_examples: int, peak_bytes: int) -> dict[str, Any]:
    """What train_results.json holds, under the public tool's names; times in seconds."""
    seconds = max(state.train_runtime_s, 1e-9)
    rows = min(plan.rows_per_step * state.global_step, math.ceil(num_examples * state.epoch))
    return {
        "epoch": state.epoch,
        "train_loss": state.loss_total / max(state.global_step, 1),
        "train_runtime": round(seconds, 4),
        "train_samples_per_second": round(rows / seconds, 3),
        "train_steps_per_second": round(state.global_step / seconds, 3),
        "effective_tokens_per_sec": round(state.num_input_tokens_seen / seconds, 2),
        "peak_memory_gb": round(peak_bytes / 1e9, 3),
    }


def write_outcome(
    folder: Path,
    config: Config,
    results: Mapping[str, Any],
    evaluated: Mapping[str, float],
    predicted: Mapping[str, float],
    ledger_lines: list[str],
) -> None:
    """The result files, and the card that shows them."""
    write_json(folder / "train_results.json", results)
    if evaluated:
        write_json(folder / "eval_results.json", {"epoch": results["epoch"], **evaluated})
    write_json(folder / "all_results.json", {**results, **evaluated, **predicted})
    write_card(folder, config, {**results, **evaluated}, ledger_lines)


def plot_outcome(folder: Path, state: TrainerState, training_metrics: tuple[str, ...]) -> None:
    """A curve for each of the stage's metrics, and for everything that was evaluated."""
    evaluated = {key for record in state.log_history for key in record if key.startswith("eval_")}
    plot_metrics(state.log_history, folder, [*training_metrics, *sorted(evaluated - _NO_PLOT)])


def closing_lines(resolved: Resolved, folder: Path, results: Mapping[str, Any]) -> list[str]:
    """How the run went, where it lies, and the commands that make use of it."""
    config = resolved.config
    lines = [
        f"finished in {clock(results['train_runtime'])}: training loss {results['train_loss']:.4f}, "
        f"{results['effective_tokens_per_sec']:,.0f} tokens/s, peak memory {results['peak_memory_gb']:.2f} GB",
        f"everything lies in {folder}",
    ]
    if config.stage == "rm":
        return [*lines, f"it scores answers: set reward_model: {folder} in a run with stage: ppo or grpo"]
    shown = resolved.config_file or folder / RUN_FILE
    lines.append(f"talk to it:  tunesmith chat {shown}")
    if config.trains_adapter:
        unquantized = "" if config.quantization_bit is None else " quantization_bit=null"
        lines.append(f"merge it:    tunesmith export {shown} export_dir={folder}-merged{unquantized}")
    return lines


def in_one_line(metrics: Mapping[str, float]) -> str:
    """Metrics for the terminal."""
    return "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
