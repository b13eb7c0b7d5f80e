"""Which parameters are trained: everything (full), some layers (freeze), or adapters beside the weights (lora).

Adapters are PEFT's, so their files are plain PEFT files. Loading one is strict: a tensor that fits nothing,
or an adapter place without a tensor, is an error, since an adapter that loads "successfully" and does
nothing is the worst outcome.
References: Hu et al., "LoRA", arXiv 2106.09685; PEFT, https://huggingface.co/docs/peft.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError, did_you_mean
from tunesmith.model.merge import merge_attached
from tunesmith.model.quantized_layers import count_packed, is_packed
from tunesmith.model.quiet import quiet_transformers
from tunesmith.model.verify import verify_safetensors

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LAYER_NAME = re.compile(r"^(.*?(?:layers|h|blocks|block))\.(\d+)\.(.+)$")


def prepare_trainable(model: Any, config: Config, trainable_dtype: torch.dtype) -> Any:
    """Freeze, unfreeze and add adapters as `finetuning_type` says.

    Args:
        model: the base model.
        trainable_dtype: dtype of the trainable parameters (fp32 unless `pure_bf16`).

    Returns:
        The model to train; for lora a PEFT model.

    Raises:
        ConfigError: a named module does not exist. ModelError: an adapter does not fit.
    """
    if config.finetuning_type == "full":
        model.requires_grad_(True)
    elif config.finetuning_type == "freeze":
        _unfreeze_layers(model, config)
    else:
        model = _with_lora(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trainable_dtype)
    return model


def _unfreeze_layers(model: nn.Module, config: Config) -> None:
    """The last n layers train (n > 0) or the first |n| (n < 0), whole or only the named modules in them."""
    names = [name for name, _ in model.named_parameters()]
    inner = {match[2]: None for match in (LAYER_NAME.match(name) for name in names) if match}
    num_layers = 1 + max((int(number) for number in inner), default=-1)
    wanted = config.freeze_trainable_layers
    if num_layers == 0 or not 1 <= abs(wanted) <= num_layers:
        raise ConfigError(
            f"`freeze_trainable_layers: {wanted}` does not fit a model with {num_layers} layers",
            fix=f"set it between 1 and {num_layers} (the last layers) or -{num_layers} and -1 (the first)",
        )
    chosen = range(num_layers - wanted, num_layers) if wanted > 0 else range(-wanted)
    in_layers = sorted({part for name in names if (m := LAYER_NAME.match(name)) for part in m[3].split(".")[:-1]})
    outside = sorted({part for name in names if not LAYER_NAME.match(name) for part in name.split(".")[:-1]})
    _require_known(config.freeze_trainable_modules, [*in_layers, "all"], "freeze_trainable_modules")
    _require_known(config.freeze_extra_modules, outside, "freeze_extra_modules")
    for name, parameter in model.named_parameters():
        match = LAYER_NAME.match(name)
        if match:
            wanted_modules = config.freeze_trainable_modules
            named = "all" in wanted_modules or bool(set(wanted_modules) & set(match[3].split(".")))
            parameter.requires_grad_(int(match[2]) in chosen and named)
        else:
            parameter.requires_grad_(bool(set(config.freeze_extra_modules) & set(name.split("."))))


def leave_inputs_to_autocast(model: Any) -> None:
    """Keep PEFT from widening each adapter's input to the adapter's dtype, which autocast narrows again at once.

    The products are the same to the bit; two passes over the activations per adapted layer are saved.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010 - PEFT reads it, but does not declare it


def _with_lora(model: Any, config: Config) -> Any:
    """Continue the last given adapter, or start a new one on top of the given ones."""
    given = list(config.adapter_name_or_path)
    if given and not config.create_new_adapter:
        return attach_adapters(model, given, trainable=True)
    model = merge_adapters(model, given)
    targets = lora_targets(model, config.lora_target)
    _require_known(config.additional_target, module_names(model), "additional_target")
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha if config.lora_alpha is not None else 2 * config.lora_rank,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        modules_to_save=list(config.additional_target) or None,
        base_model_name_or_path=config.model_name_or_path,
    )
    with quiet_transformers():
        return get_peft_model(model, lora)


def lora_targets(model: Any, wanted: Sequence[str]) -> list[str]:
    """Names of the linear layers to adapt; `all` means every one except the output head.

    Raises:
        ConfigError: a name fits no module of the model.
    """
    head = model.get_output_embeddings()
    linear = {
        name.rsplit(".", 1)[-1]
        for name, m in model.named_modules()
        if (isinstance(m, nn.Linear) or is_packed(m)) and m is not head
    }
    if "all" in wanted:
        return sorted(linear)
    _require_known(wanted, module_names(model), "lora_target", shown=linear)
    return sorted(wanted)


def module_names(model: nn.Module) -> list[str]:
    """Every full and every last module name, the forms in which a user may name a module."""
    full = [name for name, _ in model.named_modules() if name]
    return sorted({*full, *(name.rsplit(".", 1)[-1] for name in full)})


def _require_known(wanted: Sequence[str], known: Iterable[str], key: str, shown: Iterable[str] | None = None) -> None:
    known = set(known)
    for name in wanted:
        if name not in known and not any(full.endswith("." + name) for full in known):
            listing = ", ".join(sorted(shown if shown is not None else known)[:24])
            raise ConfigError(
                f"`{key}`: the model has no module '{name}'",
                fix=f"{did_you_mean(name, known)} It has: {listing}.".strip(),
            )


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
    with quiet_transformers():
        expected = set(get_peft_model_state_dict(adapted))
    unused, missing = sorted(stored - expected), sorted(expected - stored)
    if unused or missing:
        raise ModelError(
            f"the adapter {path} fits the model only in part: {len(unused)} tensors unused, {len(missing)} missing",
            where=(unused + missing)[0],
            why="it would load without a word and do less than what was trained",
            fix=f"use the base model that it was trained on: {base_of(path) or 'not recorded'}",
        )
    return adapted


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
    expected = get_peft_model_state_dict(model)
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


def has_effect(adapter: str | Path) -> bool:
    """Whether an adapter changes anything: any LoRA B that is not zero, or any module saved in full."""
    from safetensors import safe_open

    with safe_open(str(Path(adapter) / ADAPTER_WEIGHTS), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            is_silent_alone = "lora_A" in name or "lora_embedding_A" in name or ".base_layer." in name
            if not is_silent_alone and bool(file.get_tensor(name).any()):
                return True
    return False
