"""Shows that a stage learns: trains its example on the real 135M model, prints what held-out rows say.

    .venv/bin/python scripts/show_learning.py dpo [--seeds 1 2 3] [--output-dir saves/learning] [key=value ...]

A sub-command is a line of `SHOWS`: an example file, the figure that counts, and what it has to reach. `before` of a
figure is measured on the untrained model where it is not zero by definition (a log-ratio to oneself). Settings after
the sub-command go to every run, as on the command line of `tunesmith train`. Exit code 1 when a seed falls short.
To add a stage: a line of `SHOWS`. The figures of one machine stand in docs/numerics.md, under "Learning".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "examples" / "demo"))


@dataclass(frozen=True)
class Show:
    """One demonstration.

    Attributes:
        example: below examples/, with the rows to train on and to evaluate on.
        metric: a key of eval_results.json.
        at_least: what the metric has to be after training, on the held-out rows.
        also: further keys that are printed.
        settings: `key=value` on top of the example.
        seeds: which seeds are run unless others are asked for.
    """

    example: str
    metric: str
    at_least: float
    also: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)


SHOWS: dict[str, Show] = {
    "dpo": Show(
        "train_lora/smollm2_lora_dpo.yaml",
        "eval_rewards/accuracies",
        0.7,
        ("eval_rewards/margins", "eval_loss"),
        ("max_steps=20",),
        (42,),
    ),
    "rm": Show(
        "train_lora/smollm2_lora_reward.yaml",
        "eval_accuracy",
        0.8,
        ("eval_margin", "eval_loss"),
        ("max_steps=30",),
        (42,),
    ),
    "kto": Show(
        "train_lora/smollm2_lora_kto.yaml",
        "eval_rewards/margins",
        0.2,
        ("eval_rewards/chosen", "eval_rewards/rejected"),
        ("max_samples=192",),
    ),
}


def main() -> int:
    """Train with each seed and print the figures; returns the exit code."""
    from smollm2 import fetch_model

    parser = argparse.ArgumentParser(description="show on held-out rows that a stage learns")
    parser.add_argument("stage", choices=sorted(SHOWS))
    parser.add_argument("--seeds", type=int, nargs="+", help="default: those of the demonstration")
    parser.add_argument("--output-dir", type=Path, default=Path("saves/learning"), help="where the runs are written")
    options, settings = parser.parse_known_args()
    show = SHOWS[options.stage]
    places = [f"model_name_or_path={fetch_model()}", f"dataset_dir={REPO / 'data'}"]
    reached = []
    for seed in options.seeds or show.seeds:
        output = options.output_dir / f"{options.stage}-{seed}"
        started_s = time.monotonic()
        results = run(show, [*places, f"output_dir={output}", f"seed={seed}", *settings])
        figures = "  ".join(f"{key.removeprefix('eval_')} {results[key]:.3f}" for key in (show.metric, *show.also))
        print(f"{options.stage} seed {seed}: {figures}  ({time.monotonic() - started_s:.0f} s)", flush=True)
        reached.append(results[show.metric])
    worst = min(reached)
    print(f"{options.stage}: {show.metric} {worst:.3f} at worst over {len(reached)} seed(s); needed {show.at_least}")
    return 0 if worst >= show.at_least else 1


def run(show: Show, settings: list[str]) -> dict[str, float]:
    """One training. Returns its eval_results.json."""
    from tunesmith.config.resolve import resolve
    from tunesmith.train.run import train

    quiet = ["save_strategy=no", "eval_strategy=no", "do_eval=true", "overwrite_output_dir=true", "plot_loss=false"]
    resolved = resolve([str(REPO / "examples" / show.example), *quiet, *show.settings, *settings], verb="train")
    if train(resolved):
        raise KeyboardInterrupt
    folder = Path(str(resolved.config.output_dir))
    results: dict[str, float] = json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))
    return results


if __name__ == "__main__":
    sys.exit(main())
