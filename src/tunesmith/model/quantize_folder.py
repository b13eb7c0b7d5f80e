"""Write a model folder anew with quantized weights, in a format that plain transformers loads.

torchao and bitsandbytes round every matrix by itself while the folder is loaded; GPTQ and AWQ, both through gptqmodel,
look at calibration rows and choose the rounding under which each layer's outputs change least. The output head and the
embeddings stay as they are. Formats and libraries: https://huggingface.co/docs/transformers/quantization/overview.
Papers: GPTQ, https://arxiv.org/abs/2210.17323; AWQ, https://arxiv.org/abs/2306.00978.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.config import Config
from tunesmith.errors import ModelError
from tunesmith.model.quantize import TORCHAO_GROUP_SIZE, library_settings, require_packages
from tunesmith.model.quiet import quiet_transformers

BNB_GROUP_SIZE = 64
CALIBRATED = ("gptq", "awq")
CALIBRATED_GROUP_SIZES = (128, 64, 32)
MIN_ROW_TOKENS = 2
_PACKAGES = {
    "bnb": (("bitsandbytes", "tunesmith[bitsandbytes]"),),
    "torchao": (("torchao", "tunesmith[torchao]"),),
    "gptq": (("gptqmodel", "tunesmith[gptq]"), ("optimum", "tunesmith[gptq]")),
    "awq": (("gptqmodel", "tunesmith[gptq]"),),
}


@dataclass(frozen=True)
class QuantizedForm:
    """How weights are stored: the method, bits per weight, and weights that share a scale (0: a whole row).

    `levels` are the values that a weight may take below its scale: evenly spaced, or a 4-bit number format.
    `rounds_inputs`: the layers' inputs are rounded to 8 bits as well, token by token.
    """

    method: str
    bits: int
    group_size: int
    levels: str = "uniform"
    rounds_inputs: bool = False

    @property
    def is_calibrated(self) -> bool:
        """Whether the method needs rows to look at."""
        return self.method in CALIBRATED

    def describe(self) -> str:
        """`gptq in 4 bits, groups of 128`."""
        return f"{self.method} in {self.bits} bits, {f'groups of {self.group_size}' if self.group_size else 'by row'}"


def form_of(config: Config) -> QuantizedForm | None:
    """The form that `export_quantization_bit` and `export_quantization_method` ask for; None for plain weights."""
    bits, method = config.export_quantization_bit, config.export_quantization_method
    if bits is None:
        return None
    if method in CALIBRATED:
        return QuantizedForm(method, bits, CALIBRATED_GROUP_SIZES[0])
    if bits == 8:
        return QuantizedForm(method, bits, 0, rounds_inputs=method == "bnb")
    if method == "torchao":
        return QuantizedForm(method, bits, TORCHAO_GROUP_SIZE)
    return QuantizedForm(method, bits, BNB_GROUP_SIZE, config.quantization_type)


def check_quantizing(form: QuantizedForm) -> list[str]:
    """Notes for the user. Raises: ModelError when a package is missing."""
    _settle_workers()
    require_packages(_PACKAGES[form.method], f"export_quantization_method: {form.method}")
    if form.method == "torchao" and form.bits == 4:
        return ["torchao at 4 bits keeps each value in a byte: the folder is as large as with 8 bits; bnb packs them"]
    return []


def settled_form(form: QuantizedForm, model: nn.Module) -> QuantizedForm:
    """The form with a group size that divides the rows of every linear layer of `model`. Raises: ModelError."""
    if not form.is_calibrated:
        return form
    widths = {layer.in_features for layer in model.modules() if isinstance(layer, nn.Linear)}
    sizes = [size for size in CALIBRATED_GROUP_SIZES if all(width % size == 0 for width in widths)]
    if not sizes:
        raise ModelError(
            f"{form.method} cannot quantize this model: no group size of {CALIBRATED_GROUP_SIZES} divides the widths "
            f"{sorted(widths)} of its layers",
            fix="set export_quantization_method: torchao or bnb",
        )
    return replace(form, group_size=sizes[0])


def quantize_folder(
    source: Path, target: Path, form: QuantizedForm, rows: Sequence[Sequence[int]], config: Config
) -> None:
    """Write the plain model of `source` to `target`, quantized.

    Args:
        rows: calibration rows as token ids, for GPTQ and AWQ.
        config: read for the number format of bitsandbytes, `infer_dtype` (not auto), `export_size`.

    Raises: ModelError when the library refuses.
    """
    dtype = getattr(torch, config.infer_dtype)
    if form.is_calibrated:
        _calibrate(source, target, form, rows, dtype, config.export_size)
        return
    from transformers import AutoModelForCausalLM

    named = replace(config, quantization_bit=form.bits, quantization_method=form.method)
    device = "cuda" if config.export_device == "auto" and torch.cuda.is_available() else "cpu"
    with quiet_transformers(), _libraries_refusals(form):
        model: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            quantization_config=library_settings(named, dtype),
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
        )
        model.save_pretrained(target, max_shard_size=f"{config.export_size}GB")
    del model
    gc.collect()


def _calibrate(
    source: Path,
    target: Path,
    form: QuantizedForm,
    rows: Sequence[Sequence[int]],
    dtype: torch.dtype,
    size_gb: float,
) -> None:
    """GPTQ or AWQ through gptqmodel (API: https://github.com/ModelCloud/GPTQModel). Its chatter goes to stderr."""
    _settle_workers()
    with contextlib.redirect_stdout(sys.stderr), _libraries_refusals(form):
        from gptqmodel import AWQConfig, GPTQConfig, GPTQModel

        settings = {"gptq": GPTQConfig, "awq": AWQConfig}[form.method](bits=form.bits, group_size=form.group_size)
        model = GPTQModel.load(str(source), settings, dtype=dtype, trust_remote_code=False)
        samples = [{"input_ids": list(row), "attention_mask": [1] * len(row)} for row in rows]
        model.quantize(samples, batch_size=1, calibration_data_min_length=MIN_ROW_TOKENS)
        model.save(str(target), max_shard_size=f"{size_gb}GB")
    del model
    gc.collect()


def _settle_workers() -> None:
    # gptqmodel 7.7 asks for two loader threads out of half the cores, and stops on a machine with two.
    if (os.cpu_count() or 1) < 3:
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")


@contextlib.contextmanager
def _libraries_refusals(form: QuantizedForm) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, KeyError, NotImplementedError, ImportError) as error:
        first = str(error).strip().splitlines()
        raise ModelError(
            f"the model could not be quantized by {form.method} in {form.bits} bits",
            why=f"{type(error).__name__}: {first[0] if first else ''}",
            fix="set another export_quantization_method or export_quantization_bit",
        ) from error
