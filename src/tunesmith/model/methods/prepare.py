"""Which parameters are trained: everything (full), some layers (freeze), or adapters beside the weights (lora, oft).

The order matters: earlier adapters are merged, rows for new tokens are added, then the new adapter is made. The result
is the model as the run starts from it, a resumed one too: its numbers are put back afterwards (`restore_adapter`).
Adapters are PEFT's, so that their files are plain PEFT files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.adapters import ADAPTER_CONFIG, attach_adapters, merge_adapters, require_adapter
from tunesmith.model.load import model_folder
from tunesmith.model.methods import loftq, pissa
from tunesmith.model.methods.beside import (
    beside_adapter,
    embeddings_to_unfreeze,
    new_token_ids,
    refuse_targeted_embeddings,
    rows_for_tokens,
)
from tunesmith.model.methods.freeze import unfreeze_layers
from tunesmith.model.methods.lora import lora_config
from tunesmith.model.methods.oft import oft_config
from tunesmith.model.methods.places import own_base
from tunesmith.model.patches.oft_dropout import use_module_dropout
from tunesmith.model.quantized_layers import is_quantized
from tunesmith.model.quiet import quiet_transformers

Say = Callable[[str], None]


def prepare_trainable(
    model: Any,
    config: Config,
    trainable_dtype: torch.dtype,
    tokenizer: Any = None,
    say: Say = lambda line: None,
) -> Any:
    """Freeze, unfreeze and add adapters as `finetuning_type` says.

    Args:
        model: the base model; for a resumed full or freeze run, the model of the checkpoint.
        trainable_dtype: dtype of the trainable parameters (fp32 unless `pure_bf16`).
        tokenizer: the run's tokenizer, new tokens included; None where the model has rows for all of them.
        say: told what was decided without being asked for.

    Returns:
        The model to train; for lora and oft a PEFT model.

    Raises:
        ConfigError: a named module does not exist, or a setting does not fit the model.
        ModelError: an adapter does not fit the model.
    """
    if config.trains_adapter:
        model = _with_adapter(model, config, tokenizer, say)
        use_module_dropout(model)
    else:
        rows_for_tokens(model, config, tokenizer, say)
        if config.finetuning_type == "full":
            model.requires_grad_(True)
        else:
            unfreeze_layers(model, config, embeddings_to_unfreeze(model, config, say))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trainable_dtype)
    return model


def _with_adapter(model: Any, config: Config, tokenizer: Any, say: Say) -> Any:
    """Continue the last given adapter, or start a new one on top of the given ones."""
    given = list(config.adapter_name_or_path)
    for adapter in given:
        require_adapter(Path(adapter))
        _require_its_base(Path(adapter), config)
    if given and not config.create_new_adapter:
        _refuse_another_shape(Path(given[-1]), config, tokenizer)
        say(f"going on with the adapter {given[-1]}: it keeps the rank and the modules that it was made with")
        return attach_adapters(model, given, trainable=True)
    model = merge_adapters(model, given)
    rows = rows_for_tokens(model, config, tokenizer, say)
    beside = beside_adapter(model, config, rows, say)
    if config.finetuning_type == "oft":
        shape: Any = oft_config(model, config, beside.modules)
    else:
        refuse_targeted_embeddings(model, config, rows)
        shape = lora_config(model, config, beside.modules, beside.rows, tie=beside.tie)
    with quiet_transformers():
        model = get_peft_model(model, shape)
    _start_adapter(model, config, say)
    return model


def _start_adapter(model: Any, config: Config, say: Say) -> None:
    """Initialise a new adapter where the settings want another start than PEFT's."""
    if config.pissa_init:
        if is_quantized(model):
            raise ConfigError(
                "`pissa_init` takes its start out of the base's weights, which cannot be done to a quantized model",
                fix="use the unquantized model, or `loftq_init: true`, which is made for quantized bases",
            )
        pissa.begin(model, config.pissa_iter)
        say("pissa_init: adapters are saved as ordinary LoRA of twice the rank, for the base model as it is")
    elif config.loftq_init:
        if config.quantization_bit is not None and (config.loftq_bits, config.loftq_iter) != (4, 1):
            say("loftq_init: loftq_bits and loftq_iter are not read, since quantization_bit says how the base is held")
        loftq.begin(model, config, model_folder(config))


def _require_its_base(adapter: Path, config: Config) -> None:
    """An adapter that was started by LoftQ belongs to the base that its run wrote."""
    base = own_base(adapter)
    if base is not None and Path(str(config.model_name_or_path)).resolve() != base.resolve():
        raise ModelError(
            f"the adapter {adapter} belongs to the base {base}, which its run wrote (loftq_init)",
            why="beside the original weights it would be wrong",
            fix=f"set `model_name_or_path: {base}`",
        )


def _refuse_another_shape(adapter: Path, config: Config, tokenizer: Any) -> None:
    """A continued adapter keeps the shape that it was made with."""
    stored = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    kind = str(stored.get("peft_type", "")).lower()
    if kind != config.finetuning_type:
        raise ConfigError(
            f"the adapter {adapter} is of type {kind}, but finetuning_type is {config.finetuning_type}",
            fix=f"set `finetuning_type: {kind}`, or `create_new_adapter: true` to merge it and train a new one",
        )
    if new_token_ids(config, tokenizer)[0]:
        raise ConfigError(
            f"new tokens need rows that the adapter {adapter} does not have",
            fix="set `create_new_adapter: true`: the adapter is merged, and a new one trains the new rows",
        )
