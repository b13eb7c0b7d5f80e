"""Adapters beside a model: loaded, merged in order, restored from a checkpoint, counted.

Adapters are PEFT's, so their files are plain PEFT files. Loading one is strict: a tensor that fits nothing,
or an adapter place without a tensor, is an error, since an adapter that loads "successfully" and does
nothing is the worst outcome. Reference: PEFT, https://huggingface.co/docs/peft.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.model.merge import merge_attached
from tunesmith.model.methods import loftq, pissa
from tunesmith.model.methods.places import LOFTQ_MARK, own_base
from tunesmith.model.quantized_layers import count_packed, is_quantized
from tunesmith.model.quiet import quiet_transformers
from tunesmith.model.save import adapts_embedding
from tunesmith.model.verify import verify_safetensors
from tunesmith.model.vocabulary import grow_for_adapter

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def leave_inputs_to_autocast(model: Any) -> None:
    """Keep PEFT from widening each adapter's input to the adapter's dtype, which autocast narrows again at once.

    The products are the same to the bit; two passes over the activations per adapted layer are saved.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010 - PEFT reads it, but does not declare it


def attach_adapters(model: Any, adapters: Sequence[str], *, trainable: bool = False) -> Any:
    """Merge all adapters but the last into the model, in order, and put the last one beside it."""
    if not adapters:
        return model
    return load_adapter(merge_adapters(model, adapters[:-1]), adapters[-1], trainable=trainable)


def merge_adapters(model: Any, adapters: Sequence[str | Path]) -> Any:
    """The base model with the adapters merged into its weights, in order.

    `config.tie_word_embeddings` of the result is false where its embeddings had to be parted.

    Raises: ModelError when an adapter is damaged or does not fit.
    """
    if adapters and is_quantized(model):
        raise ModelError(
            f"{adapters[0]} cannot be merged into a quantized base",
            why="an adapter is a small difference to weights; rounded to 4 or 8 bits again, most of it would be lost",
            fix="use the unquantized base, or one adapter that is continued: merge the others into the base first",
        )
    for folder in adapters:
        model = merge_attached(load_adapter(model, folder))
    return model


def load_adapter(model: Any, folder: str | Path, *, trainable: bool = False) -> PeftModel:
    """Put one adapter beside the model, strictly.

    Raises:
        ModelError: the folder is no adapter or damaged; its tensors do not fit the model one to one.
    """
    path = Path(folder)
    require_adapter(path)
    started_by_loftq = (path / LOFTQ_MARK).is_file()
    if started_by_loftq and not is_quantized(model):
        raise ModelError(
            f"the adapter {path} fits the quantized base only (loftq_init with quantization_bit)",
            why="it makes up for what quantizing lost; beside or within other weights that part would be wrong",
            fix="use it with the quantization_bit that it was trained with; to merge an adapter, train it without "
            "loftq_init, or with loftq_init and without quantization_bit",
        )
    grow_for_adapter(model, path)
    stored = {name for name in verify_safetensors(path / ADAPTER_WEIGHTS) if name != "__metadata__"}
    try:
        with quiet_transformers():
            adapted = PeftModel.from_pretrained(model, str(path), is_trainable=trainable)
    except (RuntimeError, ValueError, KeyError, TypeError) as err:
        lines = str(err).strip().splitlines()
        raise ModelError(
            f"the adapter {path} does not fit the model",
            why=" ".join(lines[:2]),
            fix=f"use the base model that it was trained on: {base_of(path) or 'not recorded'}",
        ) from err
    expected = _expected_tensors(adapted, stored)
    unused, missing = sorted(stored - expected), sorted(expected - stored)
    if unused or missing:
        raise ModelError(
            f"the adapter {path} fits the model only in part: {len(unused)} tensors unused, {len(missing)} missing",
            where=(unused + missing)[0],
            why="it would load without a word and do less than what was trained",
            fix=f"use the base model that it was trained on: {base_of(path) or 'not recorded'}",
        )
    if started_by_loftq:
        adapted.add_module("loftq_start", loftq.OnQuantizedBase())
    return adapted


def _expected_tensors(adapted: PeftModel, stored: set[str]) -> set[str]:
    """Names of the tensors that the adapter should bring; other tools may have put whole embeddings beside them."""
    with quiet_transformers():
        plain, whole = (set(get_peft_model_state_dict(adapted, save_embedding_layers=flag)) for flag in (False, True))
    return whole if stored == whole else plain


def require_adapter(folder: Path) -> None:
    """Raises: ModelError when a folder does not hold a PEFT adapter."""
    if not (folder / ADAPTER_CONFIG).is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{folder} is no adapter folder: {ADAPTER_CONFIG} or {ADAPTER_WEIGHTS} is missing",
            fix="set `adapter_name_or_path` to the output folder of a LoRA run",
        )


def restore_adapter(model: Any, folder: Path) -> None:
    """Put the stored numbers of an adapter into the one that the model already carries, bit for bit.

    Raises:
        ModelError: the stored tensors are not those of the model's adapter.
    """
    stored = load_file(folder / ADAPTER_WEIGHTS)
    start, base = pissa.find_start(model), own_base(folder)
    if start is not None:
        stored = pissa.take_back(model, start, stored)
    if base is not None:
        loftq.put_base_back(model, base)
    expected = get_peft_model_state_dict(model, save_embedding_layers=adapts_embedding(model))
    differing = sorted(set(stored) ^ set(expected)) or [n for n in stored if stored[n].shape != expected[n].shape]
    if differing:
        raise ModelError(
            f"{folder / ADAPTER_WEIGHTS} does not fit the adapter of this run",
            where=differing[0],
            fix="resume with the LoRA settings that the run was started with",
        )
    set_peft_model_state_dict(model, stored)


def base_of(folder: Path) -> str | None:
    """The base model that an adapter's configuration names."""
    return json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; a tied matrix counts once, and a packed one with all weights that are in it."""
    parameters = list({id(p): p for p in model.parameters()}.values())
    packed, num_packed = count_packed(model)
    num_all = sum(p.numel() for p in parameters if id(p) not in packed) + num_packed
    return sum(p.numel() for p in parameters if p.requires_grad), num_all


_SILENT_ALONE = ("lora_A", "lora_embedding_A", "lora_magnitude", ".base_layer.")
"""Parts of an adapter that do nothing while its LoRA B is zero."""


def has_effect(adapter: str | Path) -> bool:
    """Whether an adapter changes anything: any LoRA B or OFT rotation that is not zero, or any module saved in full."""
    from safetensors import safe_open

    with safe_open(str(Path(adapter) / ADAPTER_WEIGHTS), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            is_silent_alone = any(part in name for part in _SILENT_ALONE)
            if not is_silent_alone and bool(file.get_tensor(name).any()):
                return True
    return False
