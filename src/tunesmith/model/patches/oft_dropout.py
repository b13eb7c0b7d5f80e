"""PEFT makes the dropout of an OFT layer, but never calls it (0.18 to 0.21): `module_dropout` would do nothing.

It replaces a share of a layer's rotation blocks by the identity while training. To be removed when
`peft/tuners/oft/layer.py` uses `oft_dropout` in `forward`; the test of `module_dropout` then still holds.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.oft.layer import OFTLayer, OFTRotationModule
from torch import Tensor, nn


def use_module_dropout(model: nn.Module) -> None:
    """Let every OFT layer of the model apply its dropout to the rotations that it computes, in training mode only."""
    for layer in model.modules():
        if isinstance(layer, OFTLayer):
            for name, rotation in layer.oft_R.items():
                dropout = layer.oft_dropout[name]
                if isinstance(rotation, OFTRotationModule) and not isinstance(dropout, nn.Identity):
                    _apply(rotation, dropout)


def _apply(rotation: Any, dropout: nn.Module) -> None:
    blocks_of = rotation._cayley_batch

    def dropped(*args: Any, **options: Any) -> Tensor:
        return dropout(blocks_of(*args, **options))

    rotation._cayley_batch = dropped
