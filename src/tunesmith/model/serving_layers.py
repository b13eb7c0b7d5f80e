"""Linear layers without detours, for answering, where the calls cost as much as the products.

Layers that read the same input (queries, keys and values; gate and up) are one product. On a CPU that multiplies
bfloat16 the weights are laid out once as its kernels read them, not at each call, and nothing else is kept of them.
PEFT runs an adapted layer as several modules with a scale and a sum between them; here A's rows stand under those of
the weights, in their precision, the scale is in B, and the sum is part of B's product, in float32 (for so few rows the
faster product too: 33 against 45 microseconds). The numbers are those of the layers one by one but for rounding.
Layers with anything more than A and B (DoRA, biases, quantized bases, embeddings) stay PEFT's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]
"""Rows (T, D) to (T, K)."""
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of a block that read the same input, by their usual names. Whether they do is seen at each call."""
PACKED_ROWS = 16
"""Number of rows that weights are laid out for; other numbers are right too."""
PACKING_TOLERANCE = 2e-2
"""Difference (as a share of the norm) between products in bfloat16 that is rounding."""


def serve_directly(model: nn.Module) -> int:
    """Switch the linear layers of a model in evaluation mode, with all its adapters loaded; returns how many.

    The model can only answer afterwards: the weights of its layers may be somewhere else, in another order.
    """
    shared = {id(tensor) for tensor, uses in _uses(model).items() if uses > 1}
    groups = [_Group(layers) for layers in _same_input(model, shared)]
    bases = [base for group in groups for base in group.bases]
    may_pack = any(_is_for_cpu(base.weight) for base in bases) and _only_layers_read(model, bases)
    return sum(group.take_over(may_pack) for group in groups)


@torch.inference_mode()
def _only_layers_read(model: Any, bases: Sequence[nn.Linear]) -> bool:
    """Whether nothing but the layers themselves looks at their weights: two tokens pass through the model without.

    What stands in for a weight that is gone has no elements, so that a product with it is refused. (A product with a
    weight on the meta device is not: on a CPU it gives whatever was in memory.)
    """
    kept = [base.weight for base in bases]
    for base, weight in zip(bases, kept, strict=True):
        base.forward = partial(F.linear, weight=weight, bias=base.bias)  # type: ignore[method-assign]
        base.weight = _gone(weight)
    try:
        model(input_ids=torch.tensor([[1, 2]], device=kept[0].device if kept else None), use_cache=False)
    except (RuntimeError, NotImplementedError, IndexError, ValueError, TypeError):
        return False
    finally:
        for base, weight in zip(bases, kept, strict=True):
            base.weight = weight
            del base.forward
    return True


def _gone(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.new_empty(0), requires_grad=False)


def _uses(model: nn.Module) -> Counter[Tensor]:
    """How many modules own each parameter. (Tensors hash by identity.)"""
    return Counter(tensor for module in model.modules() for tensor in module.parameters(recurse=False))


def _same_input(model: nn.Module, shared: set[int]) -> Iterator[list[nn.Module]]:
    """Lists of layers that can be one product, each layer once."""
    tuned = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    inner = {part for layer in tuned for part in layer.modules() if part is not layer}
    left = dict.fromkeys(m for m in model.modules() if m not in inner and _is_plain(m, shared))
    for parent in model.modules():
        for names in SAME_INPUT:
            layers: list[Any] = [getattr(parent, name, None) for name in names]
            if all(layer in left for layer in layers) and _fit(layers):
                for layer in layers:
                    del left[layer]
                yield layers
    for layer in left:
        yield [layer]


def _base(layer: Any) -> nn.Linear:
    return cast(nn.Linear, layer.get_base_layer() if isinstance(layer, LoraLinear) else layer)


def _is_plain(layer: Any, shared: set[int]) -> bool:
    if type(layer) is LoraLinear:
        is_plain = (
            not layer.merged
            and not getattr(layer, "fan_in_fan_out", False)
            and not any(layer.use_dora.values())
            and not any(layer.lora_bias.values())
            and not getattr(layer, "lora_variant", {})
        )
        return is_plain and _is_plain_linear(_base(layer), shared)
    return _is_plain_linear(layer, shared)


def _is_plain_linear(layer: Any, shared: set[int]) -> bool:
    """Not for weights of a kind of their own (torchao's), nor for layers whose forward somebody has put in place."""
    is_own = type(layer) is nn.Linear and "forward" not in vars(layer)
    return is_own and type(layer.weight) is nn.Parameter and id(layer.weight) not in shared


def _fit(layers: list[Any]) -> bool:
    """Whether weights can stand in one matrix."""
    bases = [_base(layer) for layer in layers]
    kinds = {(b.in_features, b.weight.dtype, b.weight.device, b.bias is None) for b in bases}
    return len(kinds) == 1


class _Group:
    """Layers of one input. The first that is called computes for all; the others pick up what is theirs."""

    def __init__(self, layers: list[Any]) -> None:
        self._layers = layers
        self.bases = [_base(layer) for layer in layers]
        self._widths = [base.out_features for base in self.bases]
        self._adapters: dict[str, _Adapter] = {}
        end = sum(self._widths)
        for name in dict.fromkeys(name for layer in layers for name in getattr(layer, "lora_A", ())):
            self._adapters[name] = _Adapter(layers, name, end)
            end += len(self._adapters[name].a_RD)
        self._input: Tensor | None = None
        self._ready: dict[int, Tensor] = {}
        self._product: Product

    def take_over(self, may_pack: bool) -> int:
        """Put the group in the place of its layers' forward; returns their number."""
        self._product = self._join(may_pack)
        for index, layer in enumerate(self._layers):
            layer.forward = MethodType(_Member(self, index), layer)
        return len(self._layers)

    def _join(self, may_pack: bool) -> Product:
        """The product with all matrices; the layers keep views, or nothing when the weights were laid out anew."""
        weights = [base.weight.detach() for base in self.bases]
        inner = [adapter.a_RD.to(weights[0].dtype) for adapter in self._adapters.values()]
        matrix_KD = torch.cat([*weights, *inner])
        biases = [base.bias.detach() for base in self.bases if base.bias is not None]
        bias_K = torch.cat([*biases, matrix_KD.new_zeros(sum(map(len, inner)))]) if biases else None
        packed = _packed(matrix_KD, bias_K) if may_pack else None
        for base, rows in zip(self.bases, matrix_KD[: sum(self._widths)].split(self._widths), strict=True):
            base.weight = nn.Parameter(rows, requires_grad=False) if packed is None else _gone(rows)
        return packed or (lambda x_TD: F.linear(x_TD, matrix_KD, bias_K))

    def output(self, index: int, x: Tensor) -> Tensor:
        """What the layer `index` makes of x (..., D)."""
        if self._input is not x or index not in self._ready:
            self._ready = dict(enumerate(self._compute(x.reshape(-1, x.shape[-1]))))
            self._input = x
        out = self._ready.pop(index)
        if not self._ready:
            self._input = None
        return out.view(*x.shape[:-1], -1)

    def _compute(self, x_TD: Tensor) -> list[Tensor]:
        """(T, K) of each layer, contiguous."""
        out_TK = self._product(x_TD)
        sum_TK = out_TK[:, : sum(self._widths)]
        for name in self._active():
            if name in self._adapters:
                sum_TK = self._adapters[name].add(out_TK, sum_TK.float())
        return [part.contiguous() for part in sum_TK.to(out_TK.dtype).split(self._widths, dim=1)]

    def _active(self) -> list[str]:
        """Names of the acting adapters: PEFT's flags are the same in all layers."""
        layer = next((layer for layer in self._layers if isinstance(layer, LoraLinear)), None)
        return [] if layer is None or layer.disable_adapters else list(layer.active_adapters)


class _Adapter:
    """One adapter in a group's layers: A of all of them (R, D); B of each, transposed and scaled, in one (R, K).

    Args:
        start: where A's rows stand among those of the group's matrix.
    """

    def __init__(self, layers: list[Any], name: str, start: int) -> None:
        has = [name in getattr(layer, "lora_A", ()) for layer in layers]
        self.a_RD = torch.cat([layer.lora_A[name].weight.detach() for layer, it in zip(layers, has, strict=True) if it])
        shares = [_scaled(layer, name) if it else _no_share(layer) for layer, it in zip(layers, has, strict=True)]
        self._b_RK = torch.block_diag(*shares).to(self.a_RD.device)
        self._rows = slice(start, start + len(self.a_RD))

    def add(self, out_TK: Tensor, sum_TK: Tensor) -> Tensor:
        """The outputs `sum_TK` with the adapter's share, float32."""
        return torch.addmm(sum_TK, out_TK[:, self._rows].float(), self._b_RK)


def _scaled(layer: Any, name: str) -> Tensor:
    """B of a layer, (r, K)."""
    scaled: Tensor = layer.lora_B[name].weight.detach().float() * layer.scaling[name]
    return scaled.t()


def _no_share(layer: Any) -> Tensor:
    """B of a layer that an adapter leaves alone: no rows, (0, K)."""
    return torch.empty(0, _base(layer).out_features, device=_base(layer).weight.device)


class _Member:
    """The forward of one layer; called with the layer as a method is."""

    def __init__(self, group: _Group, index: int) -> None:
        self._group, self._index = group, index

    def __call__(self, _: Any, x: Tensor, *__: Any, **___: Any) -> Tensor:
        return self._group.output(self._index, x)


def _is_for_cpu(weight: Tensor) -> bool:
    """Whether the CPU may have products of its own for a weight: in bfloat16; in other precisions they gain nothing."""
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16


@torch.inference_mode()
def _packed(weight_KD: Tensor, bias_K: Tensor | None) -> Product | None:
    """The product with a weight laid out for the CPU's own kernels; None where there are none, or they differ."""
    if not _is_for_cpu(weight_KD):
        return None
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return None
        packed = torch.ops.mkldnn._reorder_linear_weight(weight_KD, PACKED_ROWS)
        product = lambda x_TD: torch.ops.mkldnn._linear_pointwise(x_TD, packed, bias_K, "none", [], "")  # noqa: E731
        rows_TD = weight_KD[: 2 * PACKED_ROWS]
        expected = F.linear(rows_TD, weight_KD, bias_K).float()
        difference = (product(rows_TD).float() - expected).norm()
    except (AttributeError, NotImplementedError, RuntimeError):  # these operators are torch's own, not promised
        return None
    return product if difference <= PACKING_TOLERANCE * expected.norm() else None
