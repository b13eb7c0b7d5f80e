"""LoftQ: start LoRA so that quantized weights and adapter together are near the original weights.

Two ways. With `quantization_bit` the base is quantized as it is loaded, and A, B start from the largest part of what
that lost: W = Q(W) + s B A + rest. The adapter belongs to the same base, quantized in the same way. Without it the
alternation of the paper runs (quantize, take the largest part of the error, quantize what that leaves, ...), and the
base becomes the values that `loftq_bits` can hold, in the usual number format: 4 bits are NF4 in blocks of 64, 8 bits
are whole numbers by row. Those are another base model: the run writes it to `loftq_base`, and the adapter names it as
its base; beside the original weights the adapter would be wrong. PEFT computes the same on GPUs only, and without s.
References: Li et al., "LoftQ", arXiv 2310.08659; NF4: Dettmers et al., "QLoRA", arXiv 2305.14314, appendix E.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.errors import ModelError
from tunesmith.model.folder import written_beside
from tunesmith.model.methods.places import LOFTQ_BASE, LOFTQ_MARK
from tunesmith.model.quiet import quiet_transformers
from tunesmith.model.verify import weight_files

ADAPTER = "default"


class OnQuantizedBase(nn.Module):
    """Says, inside a model, that its adapter makes up for what quantizing lost, so that it fits no other base."""

    def write(self, folder: Path) -> None:
        """Say the same beside the saved adapter."""
        text = {"base": "quantized while it is loaded", "why": "the adapter makes up for what quantizing lost"}
        (folder / LOFTQ_MARK).write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


NF4_BLOCK = 64
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def mark_of(model: nn.Module) -> OnQuantizedBase | None:
    """The mark inside a model whose adapter fits its quantized base only."""
    return next((module for module in model.modules() if isinstance(module, OnQuantizedBase)), None)


def makes_own_base(config: Config) -> bool:
    """Whether the run changes the base's values, so that its adapter belongs to `loftq_base`."""
    return config.loftq_init and config.quantization_bit is None


@torch.no_grad()
def begin(model: Any, config: Config, model_folder: Path) -> None:
    """Set A and B of a PEFT LoRA model that has just been made, and without a quantized base also the base's values.

    Args:
        model_folder: where the original weights of a quantized base lie.

    Raises:
        ModelError: the original weights of an adapted layer are not there.
    """
    if config.quantization_bit is not None:
        model.add_module("loftq_start", OnQuantizedBase())
    for name, layer in _layers(model):
        rank, scaling = layer.r[ADAPTER], layer.scaling[ADAPTER]
        if config.quantization_bit is None:
            weight = layer.get_base_layer().weight
            values, first, second = alternate(weight.data.float(), config.loftq_bits, rank, config.loftq_iter)
            weight.data = values.to(weight.dtype)
        else:
            original = _original(model_folder, f"{name}.weight")
            held = dequantize_module_weight(layer.get_base_layer()).float()
            first, second = largest_part(original.to(held) - held, rank)
        layer.lora_A[ADAPTER].weight.data.copy_(first)
        layer.lora_B[ADAPTER].weight.data.copy_(second / scaling)


def alternate(weight_DK: Tensor, num_bits: int, rank: int, num_iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, A, B) with Q + B A near the weight, Q being values that `num_bits` bits can hold."""
    held = low_rank = torch.zeros_like(weight_DK)
    for _ in range(num_iterations):
        held = rounded(weight_DK - low_rank, num_bits)
        first, second = largest_part(weight_DK - held, rank)
        low_rank = second @ first
    return held, first, second


def rounded(weight_DK: Tensor, num_bits: int) -> Tensor:
    """The nearest values that a quantized weight can hold: NF4 by blocks of 64, or whole numbers by row."""
    if num_bits == 8:
        step_D1 = weight_DK.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        return (weight_DK / step_D1).round() * step_D1
    levels = torch.tensor(NF4_LEVELS, device=weight_DK.device)
    flat = weight_DK.flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % NF4_BLOCK)).view(-1, NF4_BLOCK)
    largest = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12)
    nearest = levels[torch.bucketize(blocks / largest, (levels[1:] + levels[:-1]) / 2)]
    return (nearest * largest).flatten()[: len(flat)].view_as(weight_DK)


def largest_part(error_DK: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(A, B) with B A the best approximation of that rank."""
    left, singular, right = torch.linalg.svd(error_DK, full_matrices=False)
    root = singular[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def put_base_back(model: Any, run_base: Path) -> None:
    """Give a resumed model the base's values that its run wrote, should another machine compute others.

    Raises:
        ModelError: a tensor is not there.
    """
    for name, layer in _layers(model):
        weight = layer.get_base_layer().weight
        weight.data = _original(run_base, f"{name}.weight").to(weight)


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(name in the base model, layer) of every adapted linear layer."""
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_A:
            yield name, layer


def _original(folder: Path, name: str) -> Tensor:
    """One unquantized tensor of a model folder."""
    for file in weight_files(folder):
        with safe_open(str(file), framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 - not a dictionary
                return tensors.get_tensor(name)
    raise ModelError(
        f"`loftq_init` needs unquantized weights, but {folder} has no {name}",
        fix="set model_name_or_path to the unquantized model and quantize it while loading (quantization_bit), or "
        "remove loftq_init",
    )


def write_base(model: Any, tokenizer: Any, run: Path) -> Path:
    """Write the base that a PEFT model stands on to `loftq_base` of a run, as a plain model folder. Returns it."""
    place = run / LOFTQ_BASE
    base = model.get_base_model()
    state = {}
    for name, tensor in base.state_dict().items():
        if "lora_" not in name and ".token_adapter.trainable" not in name and ".modules_to_save." not in name:
            plain = name.replace(".base_layer.", ".").replace(".original_module.", ".").replace(".token_adapter.", ".")
            state[plain] = tensor
    with written_beside(place) as part, quiet_transformers():
        base.save_pretrained(str(part), state_dict=state)
        tokenizer.save_pretrained(str(part))
    return place
