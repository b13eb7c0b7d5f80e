"""How the tensors of an export differ from the merged ones: rounded once, or packed into a few bits.

Sharper than logits: the update of one matrix that was not written shows here whatever it does to the answers.
A packed matrix is unpacked and held to the error of rounding to nearest at its bits in its groups: uniform rounding
with steps of width s is off by s / sqrt(12) in the root mean square (Widrow and Kollar, Quantization Noise, 2008).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from tunesmith.model.quantize_folder import QuantizedForm

# Half a unit in the last place, relative: how far rounding to nearest can move a weight.
HALF_ULP = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# Times the root mean square error of uniform rounding. Symmetric integers are the uniform steps, and nf4 is better than
# these on bell-shaped weights. GPTQ and AWQ move weights on purpose, so theirs are judged by what they answer.
ROUNDING_FACTOR = 1.5
NEAREST = ("bnb", "torchao")
OUTLIER = 6.0
"""Inputs from here on are multiplied in 16 bits by LLM.int8()."""
_FP4 = (0.0, 1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0)
LEVELS = {
    # QLoRA (arXiv 2305.14314), appendix E: quantiles of a normal distribution
    "nf4": (
        -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
        0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
    ),
    "fp4": (*(-level for level in reversed(_FP4[1:])), *_FP4),
}  # fmt: skip


def misplaced_weights(model: Any, files: Iterable[Path], dtype: str) -> tuple[int, list[str]]:
    """(tensors compared, names of those that differ from the model's by more than rounding to `dtype`).

    Args:
        model: the merged model in float32.
        files: safetensors files, whose tensors are compared one at a time with those of the same name.
    """
    expected = model.state_dict()
    num_compared, wrong = 0, []
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            names = sorted(set(file.keys()) & set(expected))
            wrong += [name for name in names if not _is_rounded(file.get_tensor(name), expected[name], dtype)]
            num_compared += len(names)
    return num_compared, wrong


def _is_rounded(stored: torch.Tensor, merged: torch.Tensor, dtype: str) -> bool:
    """Whether `stored` is `merged` rounded to `dtype`."""
    merged = merged.float().cpu()
    # The second term: sums of the update in another order, and numbers too small for float16.
    allowed = 1.01 * HALF_ULP[dtype] * merged.abs() + 1e-6 * merged.abs().max()
    return bool(((stored.float() - merged).abs() <= allowed).all())


@dataclass(frozen=True)
class PackedWeights:
    """What was found in the packed matrices of a quantized folder.

    Attributes:
        num_compared: tensors that were held to the merged ones, packed and plain.
        wrong: a phrase for each that is further off than its rounding explains.
        largest_error: largest ratio of a packed matrix's error to that of rounding to nearest; None: none compared.
        share_of_update: how much of the adapter's update the packed matrices hold: 1 all, 0 none; None without one.
        not_updated: packed matrices that hold less than half of the update that the adapter makes to them.
    """

    num_compared: int
    wrong: list[str]
    largest_error: float | None
    share_of_update: float | None
    not_updated: list[str]


@torch.no_grad()  # not inference mode: torchao's tensors cannot be listed in it
def compare_packed(
    merged: nn.Module, written: nn.Module, base: BaseTensors, form: QuantizedForm, dtype: str
) -> PackedWeights:
    """The matrices of a reloaded quantized model, unpacked, against the merged ones.

    Args:
        base: the tensors before the adapter, which tell its update from rounding.
    """
    from tunesmith.model.quantized_layers import packed_layers, unpacked_weight

    layers = dict(packed_layers(written))
    found = _Sums()
    for name, layer in layers.items() if form.method in NEAREST else ():
        linear: Any = merged.get_submodule(name)
        expected = linear.weight.float().cpu()
        weight = unpacked_weight(layer).float().cpu()
        rounding = _rounding_rms(expected, form.bits, form.group_size)
        found.add(f"{name}.weight", weight, expected, base.get(f"{name}.weight"), rounding)
    wrong = [
        f"{name} ({error:.1f} times the rounding error)"
        for name, error in found.errors.items()
        if not error <= ROUNDING_FACTOR
    ]
    # AWQ folds scales into the norms in front of its layers, so none of its tensors is the merged one.
    num_plain, misrounded = (0, []) if form.method == "awq" else _plain_tensors(merged, written, layers, dtype)
    share = found.along / found.length if found.length else None
    worst = max(found.errors.values(), default=None)
    return PackedWeights(len(found.errors) + num_plain, wrong + misrounded, worst, share, found.not_updated)


class BaseTensors:
    """Tensors of the base model by name, read from its files one at a time; None for a name that is not there."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files: dict[str, Path] = {}
        for path in files:
            with safe_open(str(path), framework="pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def get(self, name: str) -> torch.Tensor | None:
        """One tensor in float32 on the CPU."""
        if name not in self._files:
            return None
        with safe_open(str(self._files[name]), framework="pt") as file:
            return file.get_tensor(name).float()


class _Sums:
    """Errors of packed matrices, and the share of the update that they hold, summed over all."""

    def __init__(self) -> None:
        self.errors: dict[str, float] = {}
        self.not_updated: list[str] = []
        self.along = self.length = 0.0

    def add(
        self, name: str, weight: torch.Tensor, merged: torch.Tensor, base: torch.Tensor | None, rounding_rms: float
    ) -> None:
        rms = float((weight - merged).square().mean().sqrt())
        self.errors[name] = rms / max(rounding_rms, 1e-12)
        if base is None or base.shape != merged.shape:
            return
        update = (merged - base).double()
        length = float(update.square().sum())
        along = float(((weight - base) * update).sum())
        self.along, self.length = self.along + along, self.length + length
        # Rounding adds noise of rms / |update| to the share. Only a share that is clear of it is judged.
        if length and 4 * rms < 0.5 * length**0.5 and along < 0.5 * length:
            self.not_updated.append(name)


def _plain_tensors(merged: nn.Module, written: nn.Module, layers: dict[str, Any], dtype: str) -> tuple[int, list[str]]:
    """(number, wrong ones) of the tensors that are not packed: they are the merged ones, rounded to `dtype`."""
    expected, given = merged.state_dict(), written.state_dict()
    packed = tuple(f"{name}." for name in layers)
    names = [name for name in given if name in expected and not name.startswith(packed)]
    return len(names), [name for name in names if not _is_rounded(given[name].cpu(), expected[name], dtype)]


@torch.no_grad()
def round_to_nearest(model: Any, form: QuantizedForm, dtype: torch.dtype) -> None:
    """Round every linear layer but the output head in place: the plainest quantization there is.

    What a quantized export may do to the answers is measured against it. `dtype` is that of the folder, in which
    torchao stores its scales too; in bfloat16 these are off by a quarter of an 8-bit step for the largest weights.
    """
    scale_dtype = dtype if form.method == "torchao" else torch.float32
    head = model.get_output_embeddings()
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer is not head:
            rounded = _rounded(layer.weight.float(), form, scale_dtype)
            layer.weight.copy_(rounded.reshape(layer.weight.shape))
            if form.rounds_inputs:
                layer.register_forward_pre_hook(_round_inputs)


def _round_inputs(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Inputs (.., D) in 8 bits for each token, columns with outliers left out (LLM.int8(), arXiv 2208.07339)."""
    x_BTD = inputs[0]
    has_outlier_D = (x_BTD.abs() >= OUTLIER).reshape(-1, x_BTD.shape[-1]).any(0)
    kept_BTD = torch.where(has_outlier_D, 0, x_BTD)
    step_BT1 = kept_BTD.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (torch.where(has_outlier_D, x_BTD, (kept_BTD / step_BT1).round() * step_BT1), *inputs[1:])


def _rounded(weight: torch.Tensor, form: QuantizedForm, scale_dtype: torch.dtype) -> torch.Tensor:
    """The rounded weight, one group in each row."""
    step = _steps(weight, form.bits, form.group_size).to(scale_dtype).float()
    groups = weight.reshape(step.shape[0], -1)
    most = 2 ** (form.bits - 1) - 1
    if form.levels == "uniform":
        return (groups / step).round().clamp(-most - 1, most) * step
    book = torch.tensor(LEVELS[form.levels], device=weight.device)
    largest = step * most
    between = (book[1:] + book[:-1]) / 2
    return book[torch.bucketize(groups / largest, between)] * largest


def _rounding_rms(weight: torch.Tensor, bits: int, group_size: int) -> float:
    """Root mean square error of rounding a matrix to nearest with `bits` in groups."""
    return float((_steps(weight, bits, group_size).square().mean() / 12).sqrt())


def _steps(weight: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """Step widths (groups, 1): symmetric integers between -(2^(bits-1) - 1) and the same above, per group of a row."""
    width = weight.shape[-1]
    size = group_size if group_size and width % group_size == 0 else width
    return weight.reshape(-1, size).abs().amax(-1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
