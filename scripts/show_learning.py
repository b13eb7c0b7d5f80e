"""Shows that a stage learns: trains its example on the real 135M model, and compares held-out figures before and after.

    .venv/bin/python scripts/show_learning.py dpo [--seeds 1 2 3] [--output-dir saves/learning] [key=value ...]

Each stage is a line of `SHOWS`: its example, the figure that counts, and what it has to reach (every seed) or rise by
(on average over the seeds). ppo and grpo start from a short lesson, trained once. Settings after the stage go to
every run of it, as on the command line of `tunesmith train`. Exit code 1 when the figure falls short.
The figures of one machine stand in docs/numerics.md, under "Learning".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "examples" / "demo"))

LESSON = "train_lora/arithmetic_sft.yaml"
ANSWERED_RIGHT = "answered right"
"""The figure of a stage that gives answers: the share of held-out rows whose greedy answer is the row's."""


@dataclass(frozen=True)
class Show:
    """One demonstration.

    Attributes:
        example: below examples/, with the rows to train on and to evaluate on.
        metric: a metric of the stage's evaluation, or ANSWERED_RIGHT.
        at_least: what it has to be after training; or else
        rises_by: by how much it has to rise.
        also: further metrics that are printed.
        settings: `key=value` on top of the example.
        held_out: the rows for ANSWERED_RIGHT.
        lesson: the example whose adapter the training starts from.
    """

    example: str
    metric: str
    at_least: float | None = None
    rises_by: float = 0.0
    also: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    held_out: str = ""
    lesson: str = ""


SHOWS = {
    "sft": Show(
        "train_lora/transactions_sft.yaml",
        ANSWERED_RIGHT,
        at_least=0.9,
        held_out="demo/transactions_en_demo_test.jsonl",
    ),
    "dpo": Show(
        "train_lora/smollm2_lora_dpo.yaml",
        "rewards/accuracies",
        at_least=0.7,
        also=("rewards/margins",),
        settings=("max_steps=20",),
    ),
    "rm": Show(
        "train_lora/smollm2_lora_reward.yaml", "accuracy", at_least=0.8, also=("margin",), settings=("max_steps=30",)
    ),
    "kto": Show(
        "train_lora/smollm2_lora_kto.yaml",
        "rewards/margins",
        rises_by=0.5,
        also=("rewards/chosen", "rewards/rejected"),
        settings=("max_samples=192",),
    ),
    "grpo": Show("train_lora/smollm2_lora_grpo.yaml", "reward", rises_by=0.05, lesson=LESSON),
    "ppo": Show("train_lora/smollm2_lora_ppo.yaml", "reward", rises_by=0.05, lesson=LESSON),
}
QUIET = ("save_strategy=no", "overwrite_output_dir=true", "plot_loss=false")
HELD_OUT = ("eval_on_start=true", "do_eval=true", "eval_strategy=no")


def main() -> int:
    """Train with each seed and print the figures; returns the exit code."""
    from smollm2 import fetch_model

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does: docs/decisions/0012
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    parser = argparse.ArgumentParser(description="show on held-out rows that a stage learns")
    parser.add_argument("stage", choices=sorted(SHOWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output-dir", type=Path, default=Path("saves/learning"), help="where the runs are written")
    options, settings = parser.parse_known_args()
    show, model = SHOWS[options.stage], fetch_model()
    places = [f"model_name_or_path={model}", f"dataset_dir={REPO / 'data'}"]
    start: list[str] = []
    if show.lesson:
        lesson = options.output_dir / Path(show.lesson).stem
        if not (lesson / "adapter_model.safetensors").is_file():
            train(show.lesson, [*places, f"output_dir={lesson}", *QUIET])
        start = [f"adapter_name_or_path={lesson}"]
    pairs = []
    for seed in options.seeds:
        folder, started_s = options.output_dir / f"{options.stage}-{seed}", time.monotonic()
        own = [*places, *start, f"output_dir={folder}", f"seed={seed}", *QUIET, *show.settings, *settings]
        if show.held_out:
            before = {show.metric: share_right(show, [*places, "output_dir=null"])}
            train(show.example, own)
            after = {show.metric: share_right(show, [*places, f"output_dir={folder}"])}
        else:
            train(show.example, [*own, *HELD_OUT])
            before, after = evaluations(folder)
        figures = "  ".join(f"{key} {before[key]:.3f} -> {after[key]:.3f}" for key in (show.metric, *show.also))
        print(f"{options.stage} seed {seed}: {figures}  ({time.monotonic() - started_s:.0f} s)", flush=True)
        pairs.append((before[show.metric], after[show.metric]))
    return judge(options.stage, show, pairs)


def judge(stage: str, show: Show, pairs: list[tuple[float, float]]) -> int:
    """Compare (before, after) of each seed with what is needed; returns the exit code."""
    if show.at_least is not None:
        worst = min(after for _, after in pairs)
        print(f"{stage}: {show.metric} {worst:.3f} at worst over {len(pairs)} seed(s); needed {show.at_least}")
        return 0 if worst >= show.at_least else 1
    rises = [after - before for before, after in pairs]
    mean = sum(rises) / len(rises)
    print(
        f"{stage}: {show.metric} rises by {mean:.3f} on average, {min(rises):.3f} at least, over {len(pairs)} seed(s); "
        f"needed {show.rises_by} on average"
    )
    return 0 if mean >= show.rises_by else 1


def evaluations(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of a run's evaluations before the first step and after the last one."""
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    before = next(record for record in history if record["step"] == 0)
    after = json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))
    return _metrics(before), _metrics(after)


def _metrics(record: Mapping[str, float]) -> dict[str, float]:
    return {key.removeprefix("eval_"): value for key, value in record.items() if key.startswith("eval_")}


def share_right(show: Show, settings: list[str]) -> float:
    """The share of held-out rows that the run's model answers greedily as the row does."""
    from tunesmith.config.resolve import resolve
    from tunesmith.infer.engine import sampling_from_config
    from tunesmith.infer.session import open_session
    from tunesmith.types import Message

    greedy = ["do_sample=false", "max_new_tokens=8"]
    session = open_session(resolve([str(REPO / "examples" / show.example), *settings, *greedy], verb="chat"))
    params = sampling_from_config(session.config, session.renderer.stop_ids)
    lines = (REPO / "data" / show.held_out).read_text(encoding="utf-8").splitlines()
    right = 0
    for row in map(json.loads, lines):
        question = "\n".join(text for text in (row["instruction"], row.get("input", "")) if text)
        prompt = session.renderer.prompt([Message("user", question)])
        right += session.engine.generate(prompt, params).text.strip() == row["output"].strip()
    return right / len(lines)


def train(example: str, settings: list[str]) -> None:
    """One training."""
    from tunesmith.config.resolve import resolve
    from tunesmith.train.run import train as run

    if run(resolve([str(REPO / "examples" / example), *settings], verb="train")):
        raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
