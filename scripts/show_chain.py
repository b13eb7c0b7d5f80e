"""Shows that a chain of stages holds: SFT, DPO and PPO one on the other, each killed once and resumed.

    .venv/bin/python scripts/show_chain.py [--folder saves/chain] [--model FOLDER] [key=value ...]

Every step is the command that a user types, in a process of its own. A stage is killed (SIGKILL) as soon as its first
checkpoint stands, started again with the same command, and has to say that it resumes. Then the last adapter is
chatted with, exported, and the exported model chatted with: both have to give the same greedy answer.
Settings (key=value) go to every training. Exit code 1 when something does not hold.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "examples" / "demo"))

TUNESMITH = [sys.executable, "-m", "tunesmith"]
QUESTION = "What is 4 + 3?"
CHAIN: dict[str, tuple[str, tuple[str, ...]]] = {
    "sft": ("train_lora/arithmetic_sft.yaml", ("max_steps=24", "save_steps=8")),
    "dpo": ("train_lora/smollm2_lora_dpo.yaml", ("max_steps=12", "save_steps=4", "learning_rate=5e-5")),
    "ppo": ("train_lora/smollm2_lora_ppo.yaml", ("max_steps=12", "save_steps=4", "per_device_train_batch_size=8")),
}
"""Stage -> its example, and what makes it short; each goes on with the adapter of the one before."""
PATIENCE_S = 600.0


class Broken(Exception):
    """Something that should hold does not; the text says what."""


def main() -> int:
    """Run the chain; returns the exit code."""
    parser = argparse.ArgumentParser(description="train a chain of stages, killing each once")
    parser.add_argument("--folder", type=Path, default=Path("saves/chain"), help="where the runs are written")
    parser.add_argument("--model", type=Path, help="base model; default: the demo's")
    options, settings = parser.parse_known_args()
    if options.model is None:
        from smollm2 import fetch_model

        options.model = fetch_model()
    try:
        run_chain(options.folder, options.model, settings)
    except Broken as err:
        print(f"does not hold: {err}")
        return 1
    return 0


def run_chain(folder: Path, model: Path, settings: list[str]) -> None:
    """Train, chat, export, chat. Raises: Broken."""
    common = [f"model_name_or_path={model}", f"dataset_dir={REPO / 'data'}", "save_strategy=steps", "plot_loss=false"]
    before: Path | None = None
    for stage, (example, own) in CHAIN.items():
        output = folder / stage
        start = [f"adapter_name_or_path={before}"] if before else []
        command = [*TUNESMITH, "train", str(REPO / "examples" / example), *common, f"output_dir={output}", *start]
        train_killed_once([*command, *own, *settings], output)
        before = output
    template = [setting for setting in settings if setting.startswith("template=")]
    served = [f"model_name_or_path={model}", f"adapter_name_or_path={before}", *(template or ["template=smollm2"])]
    tried = chat(served)
    print(f"chat with the adapter: {QUESTION} {tried!r}")
    merged = folder / "merged"
    said = finish([*TUNESMITH, "export", *served, f"export_dir={merged}", "infer_dtype=float32"])
    print("\n".join(line for line in said.splitlines() if "proof" in line or "greedy" in line))
    answered = chat([f"model_name_or_path={merged}", *served[2:]])
    print(f"chat with the exported model: {QUESTION} {answered!r}")
    if answered != tried:
        raise Broken("the exported model does not answer as the adapter did")


def train_killed_once(command: list[str], output: Path) -> None:
    """Kill a training once its first checkpoint stands, and start it again. Raises: Broken."""
    name = output.name
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment())
    deadline_s = time.monotonic() + PATIENCE_S
    while not list(output.glob("checkpoint-*")):
        if process.poll() is not None or time.monotonic() > deadline_s:
            process.kill()
            raise Broken(f"{name}: no checkpoint: {process.communicate()[1].decode()[-2000:]}")
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise Broken(f"{name}: it had ended before it could be killed")
    said = finish(command)
    resumed = [line.strip() for line in said.splitlines() if line.startswith("resuming from")]
    if not resumed:
        raise Broken(f"{name}: the second run does not say that it resumes")
    last = next(line for line in said.splitlines() if line.startswith("finished in"))
    print(f"{name}: killed; {resumed[0]}; {last}", flush=True)


def chat(settings: list[str]) -> str:
    """The greedy answer to the question."""
    return finish(
        [*TUNESMITH, "chat", *settings, "do_sample=false", "max_new_tokens=16", "infer_dtype=float32"], QUESTION
    ).strip()


def finish(command: list[str], line: str = "") -> str:
    """What a command prints. Raises: Broken when it fails."""
    done = subprocess.run(
        command, input=f"{line}\n", capture_output=True, text=True, env=_environment(), timeout=PATIENCE_S, check=False
    )
    if done.returncode:
        raise Broken(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Wide lines, so that what a run says of itself is not folded."""
    return {**os.environ, "COLUMNS": "500"}


if __name__ == "__main__":
    sys.exit(main())
