"""PEFT's LoRA configuration from ours: targets, layers, ranks, and the modules that are trained in full beside it.

References: Hu et al., "LoRA", arXiv 2106.09685; rsLoRA (scale alpha / sqrt(r)), arXiv 2312.03732; DoRA (magnitude and
direction of a weight learn apart), arXiv 2402.09353.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from peft import LoraConfig, TaskType
from torch import nn

from tunesmith.config import Config
from tunesmith.errors import ConfigError, did_you_mean
from tunesmith.model.methods.layers import expanded_layers, layers_of_ranges
from tunesmith.model.methods.modules import linear_targets, num_layers_of, targeted_linears


def lora_config(
    model: Any, config: Config, saved_modules: list[str], token_rows: dict[str, list[int]], *, tie: bool
) -> LoraConfig:
    """PEFT's configuration of a new LoRA adapter.

    Args:
        saved_modules: modules that are trained in full and saved with it.
        token_rows: embedding name -> rows that are trained and saved with it.
        tie: the embeddings are one matrix, are trained, and must stay one.

    Raises:
        ConfigError: a target, a layer or a pattern fits nothing in the model, or a rank is above a layer's width.
    """
    targets = linear_targets(model, config.lora_target, "lora_target")
    layers = _layers(model, config)
    adapted = targeted_linears(model, targets, layers)
    ranks, alphas = (_pattern(getattr(config, key), key, adapted) for key in ("rank_pattern", "alpha_pattern"))
    _check_ranks(adapted, config.lora_rank, ranks)
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha if config.lora_alpha is not None else 2 * config.lora_rank,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        layers_to_transform=layers,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        modules_to_save=saved_modules or None,
        trainable_token_indices=token_rows or None,
        ensure_weight_tying=tie,
        base_model_name_or_path=config.model_name_or_path,
    )


def _layers(model: nn.Module, config: Config) -> list[int] | None:
    """The numbered layers that get an adapter; None for all."""
    if config.use_llama_pro:
        return expanded_layers(config.freeze_trainable_layers, num_layers_of(model))
    if config.lora_layers:
        return layers_of_ranges(config.lora_layers, num_layers_of(model))
    return None


def _pattern(pattern: Mapping[str, Any] | None, key: str, adapted: Sequence[tuple[str, nn.Linear]]) -> dict[str, int]:
    """`rank_pattern` or `alpha_pattern`: a name (or the end of one, or a regular expression) -> a whole number."""
    checked = {}
    for name, value in (pattern or {}).items():
        text = str(value)
        if not text.isdigit() or int(text) < 1:
            raise ConfigError(f"`{key}`: {name} cannot be {value}", fix="give a whole number above 0")
        try:
            fits = any(matches(name, full) for full, _ in adapted)
        except re.error as err:
            raise ConfigError(f"`{key}`: '{name}' is no regular expression: {err}", fix="correct it") from err
        if not fits:
            ends = sorted({full.rsplit(".", 1)[-1] for full, _ in adapted})
            raise ConfigError(
                f"`{key}`: no adapted layer is named '{name}'",
                fix=f"{did_you_mean(name, ends)} Adapted are: {', '.join(ends)}.".strip(),
            )
        checked[name] = int(text)
    return checked


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern names a module, as PEFT reads it: the whole name, or its end after a dot."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _check_ranks(adapted: Sequence[tuple[str, nn.Linear]], rank: int, ranks: Mapping[str, int]) -> None:
    """Above min(inputs, outputs) a rank adds parameters and nothing else."""
    for name, layer in adapted:
        wanted = next((value for pattern, value in ranks.items() if matches(pattern, name)), rank)
        widest = min(layer.in_features, layer.out_features)
        if wanted > widest:
            last = name.rsplit(".", 1)[-1]
            raise ConfigError(
                f"rank {wanted} is above the width of {name} ({layer.in_features} x {layer.out_features})",
                why=f"a rank of {widest} can express every change of it",
                fix=f"set lora_rank to at most {widest}, or this layer's: `rank_pattern: {{{last}: {widest}}}`",
            )
