"""Run a whole training in-process on a tiny model and a few rows, and read what it left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tiny import tiny_model

WORDS = "who are you what can this small assistant do for me today tell your name please yes no maybe".split()  # noqa: SIM905


def rows(num_rows: int, seed: int = 0, longest: int = 40) -> list[dict[str, str]]:
    """Alpaca rows of very unequal lengths, the same for the same arguments."""
    made = []
    for index in range(num_rows):
        place = index * 7 + seed
        question = " ".join(WORDS[(place + k) % len(WORDS)] for k in range(2 + place % 9))
        answer = " ".join(WORDS[(place * 3 + k * 5) % len(WORDS)] for k in range(1 + (place * 11) % longest))
        made.append({"instruction": f"{question} {index}?", "input": "", "output": f"{answer}."})
    return made


def write_project(folder: Path, num_rows: int = 24, **model: Any) -> Path:
    """A folder with a tiny model, a dataset and nothing else. Returns the folder."""
    tiny_model(folder / "model", **model)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    (data / "rows.json").write_text(json.dumps(rows(num_rows)), encoding="utf-8")
    (data / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}), encoding="utf-8")
    return folder


def arguments(project: Path, output: str = "out", **settings: Any) -> list[str]:
    """The command line (after `train`) of a run in the project; `settings` override."""
    values: dict[str, Any] = {
        "model_name_or_path": project / "model",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": 4,
        "dataset": "rows",
        "dataset_dir": project / "data",
        "template": "chatml",
        "cutoff_len": 128,
        "output_dir": project / output,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        **settings,
    }
    return [f"{key}={json.dumps(value) if isinstance(value, (bool, dict)) else value}" for key, value in values.items()]


def run_training(project: Path, output: str = "out", **settings: Any) -> Path:
    """Train; returns the run folder. Raises what the command would print."""
    from tunesmith.config.resolve import resolve
    from tunesmith.train.run import train

    assert train(resolve(arguments(project, output, **settings), verb="train")) == 0
    return project / output


def history(run: Path, key: str) -> list[float]:
    """What was logged under a key, in order."""
    records = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [record[key] for record in records if key in record]


def weights(run: Path) -> dict[str, Any]:
    """The final trained tensors."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors" if (run / "adapter_model.safetensors").is_file() else "model.safetensors"
    return load_file(run / name)


def largest_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """Of two equally long series."""
    assert len(first) == len(second) > 0
    return max(abs(a - b) for a, b in zip(first, second, strict=True))
