"""Shows that a stage which learns from rewards does learn: the mean reward on held-out sums before and after, per seed.

    .venv/bin/python scripts/show_reward_learning.py grpo [--seeds 1 2 3] [--output-dir saves/learning] [key=value ...]

First the short lesson that such a stage starts from (`train_lora/arithmetic_sft.yaml`) is trained once; then the
stage's example runs with each seed. Settings after the sub-command go to every run of the stage. Exit code 1 when the
mean rise over the seeds is below the margin, or any seed falls. Held-out prompts are answered once each by sampling
at temperature 1, with the same random numbers before and after.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "examples" / "demo"))

LESSON = "train_lora/arithmetic_sft.yaml"
EXAMPLES = {"grpo": "train_lora/smollm2_lora_grpo.yaml"}
MARGIN = 0.03
"""What the mean reward on held-out prompts has to rise by, on average over the seeds."""
QUIET = ("save_strategy=no", "eval_strategy=no", "overwrite_output_dir=true", "plot_loss=false")


def main() -> int:
    """Train with each seed and print the figures; returns the exit code."""
    from smollm2 import fetch_model

    parser = argparse.ArgumentParser(description="show on held-out prompts that a stage learns from rewards")
    parser.add_argument("stage", choices=sorted(EXAMPLES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output-dir", type=Path, default=Path("saves/learning"), help="where the runs are written")
    options, settings = parser.parse_known_args()
    places = [f"model_name_or_path={fetch_model()}", f"dataset_dir={REPO / 'data'}"]
    lesson = options.output_dir / "arithmetic"
    if not (lesson / "adapter_model.safetensors").is_file():
        _train(LESSON, [*places, f"output_dir={lesson}"])
    rises = []
    for seed in options.seeds:
        folder = options.output_dir / f"{options.stage}-{seed}"
        started_s = time.monotonic()
        own = [f"adapter_name_or_path={lesson}", f"output_dir={folder}", f"seed={seed}", "eval_on_start=true"]
        _train(EXAMPLES[options.stage], [*places, *own, *settings])
        before, after = rewards(folder)
        rises.append(after - before)
        print(f"{options.stage} seed {seed}: reward {before:.3f} -> {after:.3f} ({time.monotonic() - started_s:.0f} s)")
    mean = sum(rises) / len(rises)
    print(f"{options.stage}: the held-out reward rises by {mean:.3f} on average, {min(rises):.3f} at least")
    return 0 if mean >= MARGIN and min(rises) >= 0 else 1


def rewards(folder: Path) -> tuple[float, float]:
    """The mean held-out reward before the first step and after the last one of a run."""
    said = re.search(r"before training: .*?eval_reward ([\d.e+-]+)", (folder / "run.log").read_text(encoding="utf-8"))
    assert said, f"{folder} was not evaluated before training"
    results = json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))
    return float(said[1]), float(results["eval_reward"])


def _train(example: str, settings: list[str]) -> None:
    from tunesmith.config.resolve import resolve
    from tunesmith.train.run import train

    if train(resolve([str(REPO / "examples" / example), *QUIET, *settings], verb="train")):
        raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
