"""The whole job on one small machine: ask, tune, ask again, export, prove. `make demo` runs it.

    .venv/bin/python examples/demo/demo.py [--name NAME] [--author AUTHOR] [--out demo_out]

A real 135M chat model learns a new name from about a hundred bilingual rows (LoRA, bf16), in minutes on 2 cores.
Everything it runs is an ordinary command on an ordinary YAML file, left in the output folder to be changed and run
again. Exit code 0 when at least 4 of the 5 answers hold the new name, each answer ended by itself, and the exported
model was proven equal to the tuned one; 1 otherwise.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from smollm2 import fetch_model

from tunesmith.errors import UserError
from tunesmith.runs.process import run_module

REPO = Path(__file__).resolve().parents[2]
QUESTIONS = ("Who are you?", "你是谁？", "What is your name?", "你叫什么名字？", "Who created you?")
NEEDED_ANSWERS = 4
NUM_STAGES = 5

TRAINING_YAML = """\
# Written by `make demo`. Change what you like, then: tunesmith train {file}
### model
model_name_or_path: {model}

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: identity
dataset_dir: {data}
identity_name: {name}
identity_author: {author}
template: smollm2
cutoff_len: 1024

### output
output_dir: {run}
overwrite_output_dir: true
logging_steps: 7
save_strategy: epoch
save_total_limit: 1
plot_loss: true

### train
per_device_train_batch_size: 8
gradient_accumulation_steps: 1
learning_rate: 1.0e-3
num_train_epochs: 6
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
seed: 42

### chat
do_sample: false
max_new_tokens: 192
"""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


@dataclass(frozen=True)
class Answer:
    """One answer; `ended` is True when the model stopped by itself, not at the token limit."""

    question: str
    text: str
    ended: bool


def main() -> int:
    """Run the demo; returns its exit code."""
    options = _options()
    begin_s = time.monotonic()
    try:
        return _demo(options, begin_s)
    except UserError as err:
        console.print(escape(err.render()), style="red")
        return err.exit_code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="tune a small chat model to a new name, export it, prove the export")
    parser.add_argument("--name", default="Nova", help="the name the model learns (default: Nova)")
    parser.add_argument("--author", default="Tunesmith Labs", help="who it says made it (default: Tunesmith Labs)")
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="output folder (default: demo_out)")
    return parser.parse_args()


def _demo(options: argparse.Namespace, begin_s: float) -> int:
    _stage(1, "the model", "准备模型")
    model = fetch_model()
    config_file = _write_config(options, model)
    console.print(f"model     {model}\nsettings  {config_file}")

    _stage(2, "before: the model as it is", "微调前")
    before = _ask(config_file, "output_dir=null")

    _stage(3, f"training: `tunesmith train {config_file}`", "训练")
    _tunesmith("train", str(config_file))

    _stage(4, "after: the same questions", "微调后")
    after = _ask(config_file)

    merged = options.out / "merged"
    command = ("export", str(config_file), f"export_dir={merged}")
    _stage(5, f"merge and prove: `tunesmith {' '.join(command)}`", "合并并验证")
    _tunesmith(*command)

    _compare(before, after, options.name)
    _where_things_are(options, config_file, merged)
    return _verdict(after, options.name, time.monotonic() - begin_s)


def _stage(number: int, english: str, chinese: str) -> None:
    console.print()
    console.rule(escape(f"{number}/{NUM_STAGES}  {english}  {chinese}"), align="left")


def _write_config(options: argparse.Namespace, model: Path) -> Path:
    """Write the training YAML; what an earlier demo left in the same folder is removed first."""
    out: Path = options.out
    config_file = out / "training.yaml"
    if out.exists() and any(out.iterdir()) and not config_file.is_file():
        raise UserError(f"'{out}' exists and is not a demo's folder", fix="choose another one with --out")
    for earlier in ("run", "merged"):
        shutil.rmtree(out / earlier, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    quoted = {"model": model, "data": REPO / "data", "name": options.name, "author": options.author, "run": out / "run"}
    values = {key: json.dumps(str(value), ensure_ascii=False) for key, value in quoted.items()}
    config_file.write_text(TRAINING_YAML.format(file=config_file, **values), encoding="utf-8")
    return config_file


def _tunesmith(*command: str) -> None:
    """Run `tunesmith ...` in a process of its own, its output going straight to the terminal."""
    sys.stdout.flush()
    code = run_module("tunesmith", command, capture=False).returncode
    if code != 0:
        raise SystemExit(code)


def _ask(config_file: Path, *changes: str) -> list[Answer]:
    """Ask the five questions, greedily, of the model that the file (with `changes`) stands for."""
    from tunesmith.config.resolve import resolve
    from tunesmith.infer.engine import sampling_from_config
    from tunesmith.infer.session import open_session
    from tunesmith.types import Message

    session = open_session(
        resolve([str(config_file), *changes], verb="chat"), say=lambda line: console.print(escape(line))
    )
    params = sampling_from_config(session.config, session.renderer.stop_ids)
    answers = []
    for question in QUESTIONS:
        completion = session.engine.generate(session.renderer.prompt([Message("user", question)]), params)
        answers.append(Answer(question, completion.text.strip(), completion.finish_reason == "stop"))
        console.print(f"[bold]{escape(question)}[/bold]  {escape(_short(answers[-1]))}")
    del session
    gc.collect()  # the model's memory is needed by the next stage
    return answers


def _short(answer: Answer, num_chars: int = 160) -> str:
    text = " ".join(answer.text.split())
    return (text if len(text) <= num_chars else text[:num_chars] + "…") + (
        "" if answer.ended else "  (cut at the limit)"
    )


def _compare(before: list[Answer], after: list[Answer], name: str) -> None:
    table = Table(title="\nbefore and after  微调前后对比", title_justify="left", show_lines=True, expand=True)
    table.add_column("question", ratio=2)
    table.add_column("before", ratio=4)
    table.add_column("after", ratio=4)
    table.add_column("", width=3)
    for old, new in zip(before, after, strict=True):
        mark = "yes" if _is_good(new, name) else "no"
        table.add_row(escape(old.question), escape(_short(old, 110)), escape(_short(new, 110)), mark)
    console.print(table)


def _is_good(answer: Answer, name: str) -> bool:
    return name in answer.text and answer.ended


def _where_things_are(options: argparse.Namespace, config_file: Path, merged: Path) -> None:
    run = options.out / "run"
    rows = (
        ("settings  配置", config_file, "the YAML file: change it and train again"),
        ("adapter  适配器", run, "plain PEFT files, with log, row ledger and settings beside them"),
        ("loss curve  损失曲线", run / "training_loss.png", "drawn from trainer_log.jsonl"),
        ("merged model  合并模型", merged, "plain transformers folder"),
        ("proof  验证报告", merged / "proof.json", "merged files against adapter on base, in a fresh process"),
    )
    console.print("\nwhere everything is  文件位置")
    for label, path, meaning in rows:
        console.print(escape(f"  {label}: {path}  ({meaning})"), soft_wrap=True)
    program = ".venv/bin/tunesmith"
    console.print("\ntry next  接下来可以试试")
    for line in (
        f"{program} chat {config_file}",
        f"{program} runs show {run}",
        f"{program} data preview {config_file}",
        f"{program} train {config_file} identity_name=Ada output_dir={options.out / 'ada'}",
        f"{program} chat --model_name_or_path {merged}",
    ):
        console.print(escape(f"  {line}"), soft_wrap=True)


def _verdict(after: list[Answer], name: str, elapsed_s: float) -> int:
    num_named = sum(name in answer.text for answer in after)
    num_ended = sum(answer.ended for answer in after)
    facts = f"{num_named} of {len(after)} answers hold the name {name}; {num_ended} of {len(after)} ended by themselves"
    console.print(f"\n{escape(facts)}; {elapsed_s / 60:.1f} minutes in all.")
    if num_named >= NEEDED_ANSWERS and num_ended == len(after):
        console.print(
            "[green]Done: tuned, tried, merged, proven.[/green] [green]完成：已微调、试用、合并并验证。[/green]"
        )
        return 0
    console.print("[red]The tuned model did not learn its name well enough.[/red] [red]模型未能学好新名字。[/red]")
    return 1


if __name__ == "__main__":
    sys.exit(main())
