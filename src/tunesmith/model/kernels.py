"""`flash_attn`: which attention a model is loaded with, and what the user is told about it.

Training has one path: flat rows, one call of torch's scaled_dot_product_attention per document. torch chooses the
kernel, on NVIDIA GPUs its own build of FlashAttention-2, so `auto`, `sdpa`, `fa2` and `fa3` train alike; `disabled`
keeps torch to the plain formula (for comparing, or where a kernel is at fault). Inference has the choices of
transformers, and falls back to `sdpa` where the package of `fa2` or `fa3` or the GPU for it is missing.
References: Dao, "FlashAttention-2", arXiv 2307.08691; Shah et al., "FlashAttention-3", arXiv 2407.08608.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
)
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from tunesmith.config import Config
from tunesmith.model.attention import DOCUMENT_ATTENTION, document_attention, no_mask, register_document_attention
from tunesmith.model.shifted import register_shifted_attention

PLAIN_ATTENTION = "tunesmith_documents_plain"
_PACKAGES = {
    "fa2": ("flash_attention_2", "flash-attn", is_flash_attn_2_available),
    "fa3": ("flash_attention_3", "flash-attn-3", is_flash_attn_3_available),
}


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The `attn_implementation` to load a model with, and a sentence for the user where it is not what he named."""

    name: str
    note: str = ""


def choose_attention(
    config: Config, model_type: str, *, for_training: bool, device: torch.device | str = "cpu"
) -> AttentionChoice:
    """The attention that `flash_attn` and `shift_attn` ask for, registered with transformers.

    Raises: ConfigError when `shift_attn` does not fit the model type.
    """
    return (
        _for_training(config, model_type) if for_training else _for_inference(config, model_type, torch.device(device))
    )


def _for_training(config: Config, model_type: str) -> AttentionChoice:
    register_document_attention()
    note = ""
    if config.flash_attn in _PACKAGES:
        package = _PACKAGES[config.flash_attn][1]
        note = (
            f"flash_attn: {config.flash_attn} is served by torch's own attention kernels, one document at a time; "
            f"the package {package} is not used"
        )
    if config.shift_attn:
        return AttentionChoice(register_shifted_attention(config.cutoff_len, model_type, config.stage), note)
    if config.flash_attn == "disabled":
        AttentionInterface.register(PLAIN_ATTENTION, plain_document_attention)
        AttentionMaskInterface.register(PLAIN_ATTENTION, no_mask)
        return AttentionChoice(PLAIN_ATTENTION, note)
    return AttentionChoice(DOCUMENT_ATTENTION, note)


def plain_document_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """`document_attention` by the written-out formula: scores, softmax, weighted sum, each kept in memory."""
    with sdpa_kernel(SDPBackend.MATH):
        return document_attention(module, query, key, value, attention_mask, **options)


def _for_inference(config: Config, model_type: str, device: torch.device) -> AttentionChoice:
    if config.flash_attn == "disabled" or not _knows_sdpa(model_type):
        return AttentionChoice("eager")
    if config.flash_attn not in _PACKAGES:
        return AttentionChoice("sdpa")
    name, package, is_available = _PACKAGES[config.flash_attn]
    if device.type == "cuda" and is_available():
        return AttentionChoice(name)
    lacks = f"the package {package} is not installed" if device.type == "cuda" else f"it needs a GPU, this is {device}"
    return AttentionChoice("sdpa", f"flash_attn: {config.flash_attn} is replaced by sdpa: {lacks}")


def _knows_sdpa(model_type: str) -> bool:
    """Whether transformers has torch's attention for a model type; not where scores are soft-capped (Gemma 2)."""
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return True
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]]
    return bool(model_class._supports_sdpa)
