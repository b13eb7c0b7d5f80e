"""What a quantized model stands for: the same model on plain layers that hold its unpacked weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from tunesmith.model.quantized_layers import packed_layers


def unpacked_weight(layer: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(out, in): what the layer makes of the unit vectors."""
    with torch.no_grad():
        return layer.train()(torch.eye(layer.in_features, dtype=dtype)).T.contiguous()


def with_plain_layers(model: nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    """The model with a plain linear layer, of unpacked weights, in place of each packed one."""
    weights = {name: unpacked_weight(layer, dtype) for name, layer in packed_layers(model)}
    plain = copy.deepcopy(model)
    for name, weight in weights.items():
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        parent, _, last = name.rpartition(".")
        setattr(plain.get_submodule(parent), last, linear)
    return plain
