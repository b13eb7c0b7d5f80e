"""The model that a run trains: base weights, what is trained of them, and weights put back from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import Config
from tunesmith.model.adapters import prepare_trainable, restore_adapter
from tunesmith.model.load import load_model

ADAPTER_TYPES = ("lora", "oft")
"""Finetuning types whose checkpoints hold an adapter beside the base model."""


def build_model(
    config: Config, dtypes: tuple[torch.dtype, torch.dtype], source: Path | None, device: torch.device
) -> Any:
    """The base model, or a whole model from the folder `source`, with its trainable parameters chosen.

    Args:
        dtypes: of the frozen and of the trainable weights.
        device: where a base model that adapters stand beside is loaded to: quantized weights are packed there.
    """
    frozen, trainable = dtypes
    if config.finetuning_type in ADAPTER_TYPES:
        return prepare_trainable(load_model(config, dtype=frozen, device=device), config, trainable)
    if source is not None:
        config = replace(config, model_name_or_path=str(source))
    # fp32 first: trained weights must not pass through the narrower dtype of the frozen ones
    model = prepare_trainable(load_model(config, dtype=torch.float32), config, trainable)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(frozen)
    return model


def put_weights_back(model: Any, config: Config, checkpoint: Path) -> None:
    """Give the model the trained weights of a checkpoint of the same run."""
    if config.finetuning_type in ADAPTER_TYPES:
        restore_adapter(model, checkpoint)
        return
    stored = load_model(replace(config, model_name_or_path=str(checkpoint)), dtype=torch.float32)
    model.load_state_dict(stored.state_dict())
