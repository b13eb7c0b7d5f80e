"""A tiny model made ready for training as settings say, without a run around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tunesmith.config.resolve import resolve
from tunesmith.model.load import load_model, load_tokenizer
from tunesmith.model.methods.prepare import prepare_trainable


def made_ready(folder: Path, notes: list[str] | None = None, **settings: Any) -> Any:
    """The model of `folder` with its trainable parameters chosen, in fp32, in evaluation mode; the same every time."""
    values = {"model_name_or_path": folder, "dataset": "d", "output_dir": "o", "lora_rank": 4, **settings}
    text = [f"{key}={_text(value)}" for key, value in values.items()]
    config = resolve(text, verb="train").config
    torch.manual_seed(0)
    tokenizer = load_tokenizer(config)
    base = load_model(config, dtype=torch.float32, for_training=False)
    say = (lambda line: None) if notes is None else notes.append
    return prepare_trainable(base, config, torch.float32, tokenizer, say).eval()


def _text(value: Any) -> str:
    import json

    return json.dumps(value) if isinstance(value, (bool, dict)) else str(value)


def logits(model: Any) -> torch.Tensor:
    """Logits (1, T, V) of a fixed row."""
    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 40)[None]).logits


def trainable(model: Any) -> dict[str, torch.Tensor]:
    """The trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def nudge(model: Any, scale: float = 0.05) -> None:
    """Move every trainable parameter at random, as training would."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=generator)
