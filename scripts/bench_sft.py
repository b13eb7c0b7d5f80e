"""Tokens per second of `tunesmith train` against the plain way, on the same model and rows, in one run.

    .venv/bin/python scripts/bench_sft.py [--steps 8] [--rounds 3]        (`make bench`, about 3 minutes)

Both sides train LoRA (rank 8, every linear layer, bf16, examples of at most 1024 tokens) on the shipped identity
rows, with the demo's model. The plain way is what a first script does: padded batches of two, gradient checkpointing,
logits of every position. Counted are the tokens of the rows, without padding, per second of training; loading is left
out, and so is the first step of each round. The sides take turns, since the speed of a shared machine drifts; the
medians and the ratio of each pair are printed. Exit code 1 when the median ratio is below two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "examples" / "demo"))
NEEDED_RATIO = 2.0
PLAIN_BATCH_SIZE = 2
LORA_RANK = 8


def main() -> int:
    """Measure both sides and print the comparison; returns the exit code."""
    from smollm2 import fetch_model

    from tunesmith.errors import UserError

    parser = argparse.ArgumentParser(description="tokens per second: tunesmith train against a plain padded loop")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of 8 examples a round (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side, taking turns (default: 3)")
    options = parser.parse_args()
    pairs = []
    try:
        model = fetch_model()
        with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as scratch:
            config_file = _write_config(Path(scratch), model, options.steps)
            for _ in range(options.rounds):
                plain = measure_plain(config_file, options.steps)
                ours = measure_tunesmith(config_file, Path(scratch) / "run")
                print(f"plain padded loop {plain:7.1f}   tunesmith train {ours:7.1f} tokens/s", flush=True)
                pairs.append((plain, ours))
    except UserError as err:
        print(err.render(), file=sys.stderr)
        return err.exit_code
    ratio = statistics.median(ours / plain for plain, ours in pairs)
    print(f"median            {statistics.median(plain for plain, _ in pairs):7.1f}", end="")
    print(f"   median          {statistics.median(ours for _, ours in pairs):7.1f} tokens/s")
    print(f"median ratio      {ratio:7.2f}   (at least {NEEDED_RATIO} is asked for)")
    return 0 if ratio >= NEEDED_RATIO else 1


def _write_config(folder: Path, model: Path, num_steps: int) -> Path:
    settings = {
        "model_name_or_path": str(model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": LORA_RANK,
        "lora_target": "all",
        "dataset": "identity",
        "dataset_dir": str(REPO / "data"),
        "identity_name": "Nova",
        "identity_author": "Tunesmith Labs",
        "template": "smollm2",
        "cutoff_len": 1024,
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": 8,
        "max_steps": num_steps,
        "learning_rate": 1e-3,
        "bf16": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "overwrite_output_dir": True,
        "plot_loss": False,
    }
    path = folder / "bench.json"
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return path


def measure_tunesmith(config_file: Path, run: Path) -> float:
    """Tokens per second of a `tunesmith train` process, from the times and token counts in its log."""
    from tunesmith.errors import TrainingError
    from tunesmith.runs.directory import read_log
    from tunesmith.runs.process import run_module

    result = run_module("tunesmith", ["train", str(config_file)])
    if result.returncode != 0:
        raise TrainingError("`tunesmith train` failed in the benchmark", why=result.stderr[-2000:])
    rows = [row for row in read_log(run / "trainer_log.jsonl") if "throughput" in row]
    # the log holds totals since the start: tokens, and tokens per second
    tokens = [row["total_tokens"] for row in rows]
    seconds = [row["total_tokens"] / row["throughput"] for row in rows]
    return (tokens[-1] - tokens[0]) / (seconds[-1] - seconds[0])


def measure_plain(config_file: Path, num_steps: int) -> float:
    """Tokens per second of a plain loop: padded batches of two, checkpointing, logits of every position."""
    import torch

    examples = _examples(config_file)
    model = _plain_model(json.loads(config_file.read_text(encoding="utf-8"))["model_name_or_path"])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    num_tokens, begin_s = 0, time.perf_counter()
    for step in range(num_steps):
        if step == 1:
            num_tokens, begin_s = 0, time.perf_counter()
        for micro in range(8 // PLAIN_BATCH_SIZE):
            start = (step * 8 + micro * PLAIN_BATCH_SIZE) % (len(examples) - PLAIN_BATCH_SIZE)
            batch = _pad(examples[start : start + PLAIN_BATCH_SIZE])
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss / (8 // PLAIN_BATCH_SIZE)
            loss.backward()
            num_tokens += int(batch["attention_mask"].sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return num_tokens / (time.perf_counter() - begin_s)


def _examples(config_file: Path) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of the same rendered rows that `tunesmith train` sees, in file order."""
    from tunesmith.config.resolve import resolve
    from tunesmith.data.prepare import prepare
    from tunesmith.model.load import load_tokenizer
    from tunesmith.render import load_renderer

    resolved = resolve([str(config_file)], verb="train")
    renderer = load_renderer(resolved.config, load_tokenizer(resolved.config), "llama")
    store = prepare(resolved.config, renderer, resolved.config_dir, need_eval=False).train
    pairs = (store.example(index) for index in range(len(store)))
    return [(ids.tolist(), [t if w else -100 for t, w in zip(ids, weights, strict=True)]) for ids, weights in pairs]


def _plain_model(folder: str) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tunesmith.model.quiet import quiet_transformers

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, use_cache=False)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    adapted = get_peft_model(model, LoraConfig(r=LORA_RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    return adapted.train()


def _pad(examples: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    import torch

    length = max(len(ids) for ids, _ in examples)
    filled = [(ids + [0] * (length - len(ids)), labels + [-100] * (length - len(ids))) for ids, labels in examples]
    mask = [[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in examples]
    return {
        "input_ids": torch.tensor([ids for ids, _ in filled]),
        "labels": torch.tensor([labels for _, labels in filled], dtype=torch.long),
        "attention_mask": torch.tensor(mask),
    }


if __name__ == "__main__":
    sys.exit(main())
