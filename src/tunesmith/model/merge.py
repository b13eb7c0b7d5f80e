"""Merge adapters into base weights so that the merged model computes what base and adapter compute together.

PEFT adds a LoRA update to the weight it stands beside. Where input and output embedding share one tensor and an
adapter changes only one of them, that would change both: such a pair is given a tensor each first.
"""

from __future__ import annotations

import warnings
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.model.quantized_layers import is_quantized


def merge_attached(adapted: Any) -> Any:
    """The plain model behind a PEFT model, its active adapter merged. A model without adapters comes back as it is.

    Raises: ModelError when the base is quantized.
    """
    if not hasattr(adapted, "merge_and_unload"):
        return adapted
    if is_quantized(adapted):
        raise ModelError(
            "the adapter cannot be merged: the weights of the base are quantized",
            why="added to rounded weights and rounded again, most of what was learnt would be lost",
            fix="merge into the original, unquantized model (remove quantization_bit)",
        )
    untie_where_adapted(adapted)
    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer):
            _merge_rounding_once(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each layer says that it is merged already; that is meant
        return adapted.merge_and_unload()


def _merge_rounding_once(layer: Any) -> None:
    """Add the update of one layer in float32; in a 16-bit weight PEFT would round the update before adding it."""
    weight = layer.get_base_layer().weight
    dtype = weight.dtype
    weight.data = weight.data.float()
    layer.merge(safe_merge=True)
    weight.data = weight.data.to(dtype)


def untie_where_adapted(adapted: Any) -> None:
    """Give input and output embedding a tensor each, when they share one and LoRA stands beside only one of them.

    Modules that are trained in full (`additional_target`) need nothing here: PEFT parts those itself.
    """
    base = adapted.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if not any(isinstance(layer, BaseTunerLayer) for layer in (embedding, head)):
        return
    inner, outer = (_plain(layer) for layer in (embedding, head))
    if inner.weight is outer.weight:
        outer.weight = nn.Parameter(outer.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False


def _plain(layer: Any) -> Any:
    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
