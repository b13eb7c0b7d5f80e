"""The model card (`README.md`) of a run: what was trained on what, how, and with which result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith import __version__
from tunesmith.config import Config

_NO_RESULT = ("runtime", "samples_per_second")
_USE = {
    "rm": "\nA reward model: the score of an answer is the number that the value head (`value_head.safetensors`) gives "
    "at the last token of prompt and answer.\n"
}


def write_card(folder: Path, config: Config, results: Mapping[str, Any], ledger_lines: list[str]) -> None:
    """Write README.md with the front matter that model hubs read."""
    is_adapter = config.trains_adapter
    front = {
        "base_model": config.model_name_or_path,
        "library_name": "peft" if is_adapter else "transformers",
        "license": "other",
        "tags": ["tunesmith", config.stage, config.finetuning_type],
        "datasets": list(config.dataset),
    }
    facts = {
        "Base model": config.model_name_or_path,
        "Method": f"{config.stage}, {config.finetuning_type}",
        "Datasets": ", ".join(config.dataset),
        "Template": config.template or "the model's own chat template",
        "Epochs": f"{results['epoch']:.2f}",
        "Learning rate": f"{config.learning_rate:g}, {config.lr_scheduler_type}",
        "Training loss": f"{results['train_loss']:.4f}",
    }
    if "eval_loss" in results:
        facts["Evaluation loss"] = f"{results['eval_loss']:.4f}"
    facts |= {
        f"`{name}`": f"{value:.4f}"
        for name, value in results.items()
        if name.startswith("eval_") and name != "eval_loss" and not name.endswith(_NO_RESULT)
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    ledger = "\n".join(ledger_lines)
    text = (
        f"---\n{yaml.safe_dump(front, allow_unicode=True, sort_keys=False)}---\n\n"
        f"# {folder.name}\n\n"
        f"Trained with Tunesmith {__version__}. `run.yaml` holds the settings, `ledger_summary.json` the account of "
        f"every row.\n{_USE.get(config.stage, '')}\n| | |\n|---|---|\n{rows}\n\n## Rows\n\n```\n{ledger}\n```\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
