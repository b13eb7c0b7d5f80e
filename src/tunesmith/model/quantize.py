"""The base model in fewer bits: what is asked for, whether it can be done here, and how the loader does it.

bitsandbytes and torchao quantize inside `from_pretrained`. HQQ does not any more in transformers 5, so its layers are
put in place of the loaded ones here. The output head and the embeddings stay as they are, as everywhere in the field.
Everything that can be refused is refused by `check_base`, before weights are read.
Papers: QLoRA, https://arxiv.org/abs/2305.14314; LLM.int8(), https://arxiv.org/abs/2208.07339;
HQQ, https://mobiusml.github.io/hqq_blog/
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.config import Config
from tunesmith.errors import ModelError
from tunesmith.model.quantized_layers import prove_gradients, settle_bitsandbytes
from tunesmith.model.stored_formats import require_readable, stored_format, unpacking_arguments

HQQ_GROUP_SIZE, TORCHAO_GROUP_SIZE = 64, 32
_PACKAGE = {"bnb": "bitsandbytes", "hqq": "hqq", "torchao": "torchao"}
_EXTRA = "tunesmith[quantization]"


@dataclass(frozen=True)
class LoadPlan:
    """How a base model is loaded.

    Attributes:
        arguments: for `from_pretrained`, beside the usual ones.
        finish: what makes the loaded model ready; returns it on its device.
    """

    arguments: dict[str, Any]
    finish: Callable[[Any], Any]


def quantization_words(config: Config) -> str:
    """`4 bits (bnb nf4, double)`: all that decides the numbers of a quantized base; empty when it is not quantized."""
    if config.quantization_bit is None:
        return ""
    method = config.quantization_method
    if method == "bnb" and config.quantization_bit == 4:
        method += f" {config.quantization_type}" + (", double" if config.double_quantization else "")
    return f"{config.quantization_bit} bits ({method})"


def check_base(config: Config, folder: Path, device: torch.device, *, for_training: bool) -> list[str]:
    """Whether the base model can be loaded as asked, on this device, with what is installed.

    Returns:
        Notes for the user: what is done otherwise than the settings or the folder may suggest.

    Raises:
        ModelError: it cannot; nothing has been read but config.json.
    """
    name = stored_format(folder)
    if name is not None:
        return _check_stored(config, folder, name, for_training)
    if config.quantization_bit is None:
        return []
    require_packages(
        ((_PACKAGE[config.quantization_method], _EXTRA),), f"quantization_method: {config.quantization_method}"
    )
    return _notes_on_load(config, device)


def _check_stored(config: Config, folder: Path, name: str, for_training: bool) -> list[str]:
    found = require_readable(folder, name)
    require_packages(found.packages, f"{folder} holds weights quantized by {name}; reading them")
    notes = []
    if config.quantization_bit is not None:
        notes.append(f"quantization_bit is not read: {folder} is stored quantized already ({name})")
    if found.is_unpacked:
        return [
            *notes,
            f"the {name} weights of {folder} are unpacked while they are loaded; they take 16 or 32 bits each",
        ]
    problem = _packed_problem(config, for_training)
    if problem:
        raise ModelError(
            f"{folder} holds weights quantized by {name}: {problem}",
            why="packed weights take no update, and nothing is merged into them",
            fix="train one LoRA adapter on it (finetuning_type: lora), or use the unquantized model of the same name",
        )
    return notes


def _packed_problem(config: Config, for_training: bool) -> str:
    """What the settings ask of packed weights that these cannot do; the rules say it for `quantization_bit`."""
    if len(config.adapter_name_or_path) > 1:
        return "all adapters but the last would have to be merged into it"
    if not for_training:
        return ""
    if config.finetuning_type not in ("lora", "oft"):
        return f"finetuning_type {config.finetuning_type} would have to change them"
    if config.create_new_adapter and config.adapter_name_or_path:
        return "create_new_adapter would have to merge the given adapter into it"
    if config.pissa_init:
        return "pissa_init would have to change them"
    return "its vocabulary cannot be resized" if config.resize_vocab else ""


def require_packages(packages: Sequence[tuple[str, str]], what: str) -> None:
    """Import the packages. Raises: ModelError naming the one that is missing or broken."""
    for module, to_install in packages:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as err:
            missing = isinstance(err, ModuleNotFoundError) and err.name == module
            raise ModelError(
                f"{what} needs the package {module}, which {'is not installed' if missing else 'cannot be imported'}",
                why="" if missing else f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}",
                fix=f"pip install {to_install!r}" if "[" in to_install else f"pip install {to_install}",
            ) from err


def _notes_on_load(config: Config, device: torch.device) -> list[str]:
    method, bits = config.quantization_method, config.quantization_bit
    notes = []
    if method == "torchao" and bits == 4:
        notes.append(
            "torchao at 4 bits: values are rounded to 4 bits but kept in a byte each, so they take the memory of 8 "
            "bits; its packed layouts cannot be trained through adapters. quantization_method: bnb packs them"
        )
    if method == "hqq":
        kept = {3: "ten to four bytes", 5: "a byte each", 6: "a byte each"}.get(bits or 0)
        if kept:
            notes.append(f"hqq at {bits} bits: weights are kept {kept}")
        if device.type == "cpu":
            notes.append(
                "hqq searches the scales of every layer while loading: about ten minutes per billion weights on a CPU"
            )
    if method == "bnb" and bits == 8 and device.type == "cpu":
        notes.append("bnb at 8 bits on a CPU: weights are rounded, activations are not (on a GPU they are too)")
    if config.quantization_device_map and device.type == "cpu":
        notes.append("quantization_device_map has no effect: there is no other device than the CPU")
    return notes


def plan_loading(
    config: Config, folder: Path, dtype: torch.dtype, device: torch.device, *, for_training: bool
) -> LoadPlan:
    """How to load the base model of `folder`. Raises: ModelError as `check_base`."""
    check_base(config, folder, device, for_training=for_training)
    name = stored_format(folder)

    def finish_packed(model: Any) -> Any:
        settle_bitsandbytes(model, dtype, for_training=for_training)
        if for_training:
            prove_gradients(model, dtype)
        return model

    if name is not None:
        if require_readable(folder, name).is_unpacked:
            return LoadPlan(unpacking_arguments(name), lambda model: model.to(device))
        return LoadPlan({"device_map": {"": str(device)}}, finish_packed)
    if config.quantization_bit is None:
        return LoadPlan({}, lambda model: model.to(device))
    if config.quantization_method == "hqq":
        return LoadPlan({}, lambda model: finish_packed(_pack_with_hqq(model, config.quantization_bit, dtype, device)))
    return LoadPlan(_arguments(config, dtype, device), finish_packed)


def _arguments(config: Config, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    device_map: Any = config.quantization_device_map or {"": str(device)}
    return {"quantization_config": library_settings(config, dtype), "device_map": device_map}


def library_settings(config: Config, dtype: torch.dtype) -> Any:
    """What transformers is told of bitsandbytes or torchao: method, bits and number format of the configuration."""
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if config.quantization_method == "bnb":
        if config.quantization_bit == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.quantization_type,
            bnb_4bit_use_double_quant=config.double_quantization,
            bnb_4bit_compute_dtype=dtype,
        )
    with contextlib.redirect_stderr(io.StringIO()):
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
        from torchao.quantization.granularity import PerGroup
    if config.quantization_bit == 8:
        return TorchAoConfig(Int8WeightOnlyConfig())
    int4 = getattr(torch, "int4")  # noqa: B009 - torch has it, its type stubs do not
    return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=int4, granularity=PerGroup(TORCHAO_GROUP_SIZE)))


def _pack_with_hqq(model: Any, bits: int | None, dtype: torch.dtype, device: torch.device) -> Any:
    """Replace every linear layer but the output head by its HQQ form, one by one."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    head = model.get_output_embeddings()
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear and layer is not head]
    for name, layer in layers:
        group_size = math.gcd(layer.weight.numel(), HQQ_GROUP_SIZE)
        settings = BaseQuantizeConfig(nbits=bits, group_size=group_size, axis=0)
        packed = HQQLinear(layer, settings, compute_dtype=dtype, device=str(device), del_orig=True)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, packed)
    return model.to(device)
