"""Linear layers whose weights are packed into few bits, whatever library packed them: found, counted, set up, tried.

A packed layer is known by what it lacks: a plain weight matrix beside its `in_features` and `out_features`. So new
layer classes need no entry here. Before a model is trained, one layer of each kind and shape is tried: kernels have
existed that compute the right output and hand back no gradient, and a run with them looks healthy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError

_PLAIN = (nn.Parameter, Tensor)
GRADIENT_TOLERANCE = 0.05
"""Of the squared output. 16-bit products are off by some tenths of a percent, int8 products on GPUs by one or two; a
lost gradient is off by all of it."""


def is_packed(module: nn.Module) -> bool:
    """Whether a module is a linear layer without a plain weight matrix. A layer with an adapter around it is not."""
    if not hasattr(module, "in_features") or not hasattr(module, "out_features") or hasattr(module, "base_layer"):
        return False
    return type(getattr(module, "weight", None)) not in _PLAIN


def packed_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every packed layer."""
    return ((name, module) for name, module in model.named_modules() if is_packed(module))


def is_quantized(model: nn.Module) -> bool:
    """Whether transformers says so, or any layer is packed (it does not know of those that HQQ packed here)."""
    return bool(getattr(model, "is_quantized", False)) or next(packed_layers(model), None) is not None


def packed_parameter_names(model: nn.Module) -> list[str]:
    """The full names of the parameters that hold packed weights."""
    return [
        f"{prefix}.{name}"
        for prefix, layer in packed_layers(model)
        for name, _ in layer.named_parameters(recurse=False)
        if name != "bias"
    ]


def count_packed(model: nn.Module) -> tuple[set[int], int]:
    """The ids of the parameters that hold packed weights, and the number of weights packed in all of them.

    A parameter of 4-bit weights has half as many elements as weights.
    """
    ids, num_weights = set(), 0
    for _, layer in packed_layers(model):
        num_weights += layer.in_features * layer.out_features
        ids |= {id(parameter) for name, parameter in layer.named_parameters(recurse=False) if name != "bias"}
    return ids, num_weights


def stored_bytes(model: nn.Module) -> int:
    """Bytes that the weights of a model take in memory, scales and other constants of the packing included."""
    seen: dict[int, int] = {}
    for module in model.modules():
        for value in _tensors_of(module):
            for tensor in _inner_tensors(value):
                seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values())


def _tensors_of(module: Any) -> Iterator[Any]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    yield from (getattr(module, "meta", None) or {}).values()  # HQQ
    state = getattr(module, "state", None)  # bitsandbytes, 8 bits
    yield from (getattr(state, "CB", None), getattr(state, "SCB", None))
    quant_state = getattr(getattr(module, "weight", None), "quant_state", None)  # bitsandbytes, 4 bits
    while quant_state is not None:
        yield from (quant_state.absmax, quant_state.code)
        quant_state = quant_state.state2


def _inner_tensors(value: Any) -> Iterator[Tensor]:
    """The plain tensors of a tensor that may be a wrapper around several."""
    if not isinstance(value, Tensor):
        return
    if hasattr(value, "__tensor_flatten__"):
        for name in value.__tensor_flatten__()[0]:
            yield from _inner_tensors(getattr(value, name))
        return
    yield value
    yield from (part for part in (getattr(value, "SCB", None),) if isinstance(part, Tensor))


def settle_bitsandbytes(model: nn.Module, dtype: torch.dtype, *, for_training: bool) -> None:
    """Make the layers of bitsandbytes compute in `dtype`, and on CPUs the same function in training and evaluation.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit layer at its first forward pass in evaluation mode, for
    good and with coarser scales; from then on no gradient passes through the layer, in training mode either. That
    happened before the first step here, where the scores are verified. So a model to be trained is kept from it. For
    inference in bf16 it is left on where the shapes allow it: it is three times as fast.
    Its 8-bit layers round activations too in evaluation mode, but not in training on CPUs: here they never do.
    """
    for _, layer in packed_layers(model):
        if type(layer).__name__ == "Linear4bit":
            layer.compute_dtype, layer.compute_type_is_set = dtype, True
            fits = layer.out_features % 32 == 0 and layer.in_features % layer.weight.blocksize == 0
            may_repack = not for_training and dtype == torch.bfloat16 and fits
            layer.support_avx512bf16_for_cpu = bool(layer.support_avx512bf16_for_cpu) and may_repack
        elif type(layer).__name__ == "Linear8bitLt" and layer.weight.device.type == "cpu":
            layer.__class__ = _weight_only_int8()


@lru_cache(maxsize=1)
def _weight_only_int8() -> type:
    """`Linear8bitLt` that multiplies unpacked weights with unrounded activations, in every mode."""
    import bitsandbytes as bnb
    from bitsandbytes.autograd._functions import MatMul8bitFp

    base: Any = bnb.nn.Linear8bitLt

    class WeightOnlyInt8(base):
        def forward(self, x: Tensor) -> Tensor:
            if self.weight.SCB is not None:  # not `CB`: PEFT fills that again, without scales, when it makes DoRA
                self.init_8bit_state()
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return MatMul8bitFp.apply(x, self.weight, None, bias, self.state)

    return WeightOnlyInt8


def prove_gradients(model: nn.Module, dtype: torch.dtype) -> int:
    """Try a copy of one packed layer of each kind and shape: evaluate, then see whether the whole gradient comes back.

    For y = W x and the loss |y|^2 / 2 the gradient g of x obeys <x, g> = |y|^2.

    Returns:
        The number of layers tried.

    Raises:
        ModelError: a layer loses its gradient.
    """
    kinds = {
        (type(layer), layer.in_features, layer.out_features): (name, layer) for name, layer in packed_layers(model)
    }
    for name, original in kinds.values():
        layer = copy.deepcopy(original)  # some layers change at their first forward pass
        device = next((t.device for t in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        x_MD = torch.randn(4, layer.in_features, generator=generator).to(device, dtype)
        with torch.no_grad():
            layer.eval()(x_MD)
        x_MD.requires_grad_(True)
        y_MD = layer.train()(x_MD)
        bias = getattr(layer, "bias", None)
        if bias is not None:
            y_MD = y_MD - bias.to(y_MD.dtype)
        wanted = float(y_MD.detach().float().square().sum())
        if y_MD.requires_grad:
            y_MD.backward(y_MD.detach())
        found = 0.0 if x_MD.grad is None else float((x_MD.detach().float() * x_MD.grad.float()).sum())
        if not abs(found - wanted) <= GRADIENT_TOLERANCE * wanted:
            raise ModelError(
                f"no usable gradient passes through the quantized layers of this model ({type(layer).__name__})",
                where=f"{name}: {found / max(wanted, 1e-30):.1%} of the gradient came back",
                why="what lies before such a layer would be trained on a wrong gradient, without any sign of it",
                fix="set another quantization_method, or remove quantization_bit",
            )
    return len(kinds)


def unpacked_weight(layer: Any) -> Tensor:
    """The weight matrix (out, in) that a packed layer of bitsandbytes or torchao computes with, in 16 or 32 bits.

    Raises: ModelError for another library's layer.
    """
    weight: Any = getattr(layer, "weight", None)
    if type(layer).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state)
    if getattr(weight, "SCB", None) is not None:  # bitsandbytes, 8 bits: integers up to 127, a scale for each row
        return weight.CB.float() * weight.SCB.float()[:, None] / 127
    if hasattr(weight, "dequantize"):
        return weight.dequantize()
    raise ModelError(f"the weights of {type(layer).__name__} cannot be unpacked here", fix="use another method")
