"""PiSSA: start LoRA from the principal singular vectors of the weights; and back to an ordinary LoRA, exactly.

At the start W = W_res + s B0 A0, where s B0 A0 is the best rank-r part of W; the base layer keeps W_res, and A, B learn
from A0, B0 on. An adapter of this form is wrong beside the original W. So every file that a run writes holds the
ordinary form, of rank 2r, for the *original* base:

    W_res + s B A = W + s (B A - B0 A0) = W + s [B, B0] [A; -A0].

It merges, chats and exports like any other LoRA; and since both halves stand in it unrounded, a checkpoint resumes bit
for bit, without another decomposition. What the stored dtype of the base rounds off W_res is not in W: nothing in fp32,
up to 0.4 % of W_res in bf16.
Reference: Meng et al., "PiSSA", arXiv 2404.02948.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.model.methods.places import PISSA_BACKUP, PISSA_CONVERTED, PISSA_INIT

ADAPTER = "default"
_WEIGHTS, _PREFIX = "adapter_model.safetensors", "base_model.model."


class PissaStart(nn.Module):
    """Where the adapter of a model started: A0 and B0 of every layer, by the layer's name. Lives inside the model."""

    def __init__(self, start: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._places = {name: index for index, name in enumerate(start)}
        for index, (first_rD, second_Dr) in enumerate(start.values()):
            self.register_buffer(f"a_{index}", first_rD, persistent=False)
            self.register_buffer(f"b_{index}", second_Dr, persistent=False)

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """(A0, B0) of a layer."""
        index = self._places[name]
        return self.get_buffer(f"a_{index}"), self.get_buffer(f"b_{index}")


def find_start(model: nn.Module) -> PissaStart | None:
    """The start of a model in PiSSA's form, None for any other model."""
    return next((module for module in model.modules() if isinstance(module, PissaStart)), None)


@torch.no_grad()
def begin(model: Any, num_iterations: int) -> None:
    """Bring a PEFT LoRA model that has just been made into PiSSA's form; its function stays the same.

    The fast decomposition draws from torch's generator: after the same seed it gives the same numbers.

    Args:
        num_iterations: subspace iterations of the fast decomposition; -1 for the exact one.
    """
    start = {}
    for name, layer in _layers(model):
        weight = _weight(layer).float()
        rank, scaling = layer.r[ADAPTER], layer.scaling[ADAPTER]
        if num_iterations < 0:
            left, singular, right = torch.linalg.svd(weight, full_matrices=False)
            left, singular, right = left[:, :rank], singular[:rank], right[:rank]
        else:
            left, singular, right_t = torch.svd_lowrank(weight, rank, niter=num_iterations)
            right = right_t.T
        root = (singular / scaling).sqrt()
        start[name] = (root[:, None] * right).contiguous(), (left * root).contiguous()
    _put(model, start)
    for name, layer in _layers(model):
        first, second = start[name]
        layer.lora_A[ADAPTER].weight.data.copy_(first)
        layer.lora_B[ADAPTER].weight.data.copy_(second)


def _put(model: Any, start: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Take the start out of the base weights, and note it in the model."""
    for name, layer in _layers(model):
        first, second = start[name]
        _set_weight(layer, _weight(layer).float() - layer.scaling[ADAPTER] * second @ first)
    model.add_module("pissa_start", PissaStart(start))


@torch.no_grad()
def take_back(model: Any, start: PissaStart, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter of rank r within the ordinary form of rank 2r that a run saved; its start becomes the model's.

    On the machine that saved it the start is the model's already, to the bit; another one may decompose otherwise in
    the last digits, and then the base weights follow the stored start.

    Raises:
        ModelError: the stored tensors are not those of this model.
    """
    half = dict(stored)
    for name, layer in _layers(model):
        rank = layer.r[ADAPTER]
        keys = [f"{_PREFIX}{name}.lora_{matrix}.weight" for matrix in "AB"]
        if any(key not in stored for key in keys) or stored[keys[0]].shape[0] != 2 * rank:
            raise ModelError(
                "the stored adapter does not hold a PiSSA start for this model",
                where=keys[0],
                fix="resume with the LoRA settings that the run was started with",
            )
        both_2rK, both_D2r = (stored[key] for key in keys)
        half[keys[0]], half[keys[1]] = both_2rK[:rank], both_D2r[:, :rank].contiguous()
        _move_start(layer, start.of(name), (-both_2rK[rank:], both_D2r[:, rank:].contiguous()))
    return half


def _move_start(layer: Any, mine: tuple[Tensor, Tensor], stored: tuple[Tensor, Tensor]) -> None:
    """Put the stored start of one layer in the place of the model's own."""
    if all(torch.equal(own, other.to(own)) for own, other in zip(mine, stored, strict=True)):
        return
    scaling = layer.scaling[ADAPTER]
    whole = _weight(layer).float() + scaling * mine[1] @ mine[0]
    for own, other in zip(mine, stored, strict=True):
        own.copy_(other)
    _set_weight(layer, whole - scaling * mine[1] @ mine[0])


def save_as_lora(model: Any, start: PissaStart, folder: Path) -> None:
    """Write the ordinary LoRA that does to the original base what the model does. Safetensors and PEFT's JSON."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, _ in _layers(model):
        first, second = start.of(name)
        for matrix, kept, dim in (("A", -first, 0), ("B", second, 1)):
            key = f"{_PREFIX}{name}.lora_{matrix}.weight"
            learned = tensors[key]
            tensors[key] = torch.cat([learned, kept.to(learned.device)], dim)  # the wider dtype of the two
    config = copy.deepcopy(model.peft_config[ADAPTER])
    widen = math.sqrt(2) if config.use_rslora else 2  # keeps the scale: alpha / r, or alpha / sqrt(r)
    config.r, config.lora_alpha = 2 * config.r, config.lora_alpha * widen
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: alpha * widen for name, alpha in config.alpha_pattern.items()}
    _write(tensors, config, folder)


def write_conversion(model: Any, run: Path) -> None:
    """What `pissa_convert` asks for, in folders of the run.

    `pissa_init` and `pissa_backup` hold A0, B0 and the trained A, B, for the residual base W - s B0 A0;
    `pissa_converted` holds the ordinary LoRA for the original base.
    """
    start = find_start(model)
    assert start is not None
    learned = get_peft_model_state_dict(model, save_embedding_layers=False)
    initial = dict(learned)
    for name, _ in _layers(model):
        initial[f"{_PREFIX}{name}.lora_A.weight"], initial[f"{_PREFIX}{name}.lora_B.weight"] = start.of(name)
    for folder, tensors in ((PISSA_INIT, initial), (PISSA_BACKUP, learned)):
        _write(tensors, copy.deepcopy(model.peft_config[ADAPTER]), run / folder)
    save_as_lora(model, start, run / PISSA_CONVERTED)


def _write(tensors: Mapping[str, Tensor], config: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / _WEIGHTS,
        metadata={"format": "pt"},
    )
    config.inference_mode = True
    config.save_pretrained(str(folder))


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(name in the base model, LoRA layer) of every adapted linear layer, in the model's order."""
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLinear) and ADAPTER in layer.lora_A:
            yield name, layer


def _weight(layer: Any) -> Tensor:
    """The base weight of a layer, outputs by inputs."""
    weight = layer.get_base_layer().weight.data
    return weight.T if layer.fan_in_fan_out else weight


def _set_weight(layer: Any, weight_DK: Tensor) -> None:
    stored = layer.get_base_layer().weight
    stored.data = (weight_DK.T if layer.fan_in_fan_out else weight_DK).to(stored.dtype).contiguous()
