"""Which parameters are trained: everything (full), some layers (freeze), or adapters beside the weights (lora, oft).

The order matters: earlier adapters are merged, rows for new tokens are added, then the new adapter is made, and last the
numbers of a checkpoint replace its own. Adapters are PEFT's, so that their files are plain PEFT files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from tunesmith.config import Config
from tunesmith.config.tokens import NewTokens, new_tokens
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.adapters import ADAPTER_CONFIG, attach_adapters, merge_adapters, require_adapter, restore_adapter
from tunesmith.model.load import load_tokenizer, model_folder
from tunesmith.model.methods import loftq, pissa
from tunesmith.model.methods.freeze import unfreeze_layers
from tunesmith.model.methods.lora import lora_config
from tunesmith.model.methods.modules import module_names, require_known
from tunesmith.model.methods.oft import oft_config
from tunesmith.model.quiet import quiet_transformers
from tunesmith.model.vocabulary import embedding_names, give_rows, is_tied

Say = Callable[[str], None]


def prepare_trainable(
    model: Any,
    config: Config,
    trainable_dtype: torch.dtype,
    *,
    tokenizer: Any = None,
    start: Path | None = None,
    say: Say = lambda line: None,
) -> Any:
    """Freeze, unfreeze and add adapters as `finetuning_type` says.

    Args:
        model: the base model; for a resumed full or freeze run, the model of the checkpoint.
        trainable_dtype: dtype of the trainable parameters (fp32 unless `pure_bf16`).
        tokenizer: the run's tokenizer, new tokens included; None where no token is added.
        start: the checkpoint that a resumed run goes on from.
        say: told what was decided without being asked for.

    Returns:
        The model to train; for lora and oft a PEFT model.

    Raises:
        ConfigError: a named module does not exist, or a setting does not fit the model. ModelError: an adapter does not.
    """
    if config.trains_adapter:
        model = _with_adapter(model, config, tokenizer, start, say)
    else:
        rows = _rows_for_tokens(model, config, tokenizer, start)
        if config.finetuning_type == "full":
            model.requires_grad_(True)
        else:
            unfreeze_layers(model, config, _embeddings_too(model, config, rows, say))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trainable_dtype)
    if start is not None and config.trains_adapter:
        restore_adapter(model, start)
    return model


@dataclass(frozen=True)
class _Beside:
    """What is trained and saved beside an adapter: whole modules, and single rows of embeddings."""

    modules: list[str] = field(default_factory=list)
    rows: dict[str, list[int]] = field(default_factory=dict)
    tie: bool = False


def _with_adapter(model: Any, config: Config, tokenizer: Any, start: Path | None, say: Say) -> Any:
    """Continue the last given adapter, or start a new one on top of the given ones."""
    given = list(config.adapter_name_or_path)
    for adapter in given:
        _require_its_base(Path(adapter), config)
    if given and not config.create_new_adapter:
        _refuse_another_shape(Path(given[-1]), config, tokenizer, say)
        return attach_adapters(model, given, trainable=True)
    model = merge_adapters(model, given)
    rows = _rows_for_tokens(model, config, tokenizer, None)
    if config.additional_target:
        require_known(config.additional_target, module_names(model), "additional_target")
    beside = _beside(model, config, rows, say)
    if config.finetuning_type == "oft":
        shape: Any = oft_config(model, config, beside.modules)
    else:
        shape = lora_config(model, config, beside.modules, beside.rows, tie=beside.tie)
        _refuse_changed_embeddings(model, config, rows)
    with quiet_transformers():
        model = get_peft_model(model, shape)
    if config.pissa_init and start is None:
        _refuse_quantized(model, "pissa_init")
        pissa.begin(model, config.pissa_iter)
        say("pissa_init: adapters are written as ordinary LoRA of twice the rank, for the base model as it is")
    elif config.pissa_init and start is not None:
        pissa.resume(model, adapter_tensors(start))
    elif config.loftq_init and start is None:
        loftq.begin(model, config, model_folder(config))
    return model


def adapter_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved adapter."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def new_token_ids(config: Config, tokenizer: Any) -> tuple[dict[str, int], dict[str, list[int]]]:
    """(ids of the tokens that the configuration adds, ids that describe some of them); known tokens are left out."""
    wanted = new_tokens(config)
    if tokenizer is None or not wanted.all:
        return {}, {}
    none = NewTokens()
    before = load_tokenizer(
        replace(config, add_tokens=none.plain, add_special_tokens=none.special, new_special_tokens_config=None)
    )
    known = before.get_vocab()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in wanted.all if token not in known}
    words = {token: before(text, add_special_tokens=False)["input_ids"] for token, text in wanted.descriptions.items()}
    return ids, words


def _rows_for_tokens(model: Any, config: Config, tokenizer: Any, start: Path | None) -> list[int]:
    """The rows that new tokens were given; none for the model of a checkpoint, which has them already."""
    if not config.resize_vocab or tokenizer is None or start is not None:
        return []
    new_ids, words = new_token_ids(config, tokenizer)
    return give_rows(model, 1 + max(tokenizer.get_vocab().values()), new_ids, words, config)


def _embeddings_too(model: Any, config: Config, rows: list[int], say: Say) -> list[str]:
    """freeze: new rows must learn, so both embeddings are unfrozen unless the user has named one."""
    names = embedding_names(model)
    named = any(name.rsplit(".", 1)[-1] in config.freeze_extra_modules for name in names)
    if not (rows or config.resize_vocab) or named:
        return []
    say(f"new tokens: {', '.join(names)} are trained too; name them in freeze_extra_modules to choose yourself")
    return names


def _beside(model: Any, config: Config, rows: list[int], say: Say) -> _Beside:
    """`additional_target`, and the embedding rows of new tokens where it does not cover them."""
    modules = list(config.additional_target)
    embeddings = embedding_names(model)
    named = [n for n in modules if any(e == n or e.endswith("." + n) for e in embeddings) or _is_head(model, n)]
    if is_tied(model) and named:
        if config.finetuning_type == "oft":
            raise ConfigError(
                "oft cannot train embeddings that input and output share",
                fix="use finetuning_type: lora, which keeps them one matrix, or remove them from additional_target",
            )
        modules = [*(n for n in modules if n not in named), embeddings[0]]  # the head follows: it is the same matrix
        return _Beside(modules, {}, tie=True)
    if not rows or len(named) == len(embeddings):
        return _Beside(modules)
    if config.finetuning_type == "oft":
        say(f"new tokens: {', '.join(embeddings)} are trained in full and saved with the adapter")
        if is_tied(model):
            raise ConfigError(
                "oft cannot train new tokens in embeddings that input and output share",
                fix="use finetuning_type: lora",
            )
        return _Beside([*modules, *(e for e in embeddings if not any(e.endswith(n) for n in named))])
    left = [e for e in embeddings if not any(e == n or e.endswith("." + n) for n in named)]
    say(
        f"new tokens: {len(rows)} new rows of {', '.join(left)} are trained and saved with the adapter; "
        "additional_target trains whole embeddings"
    )
    return _Beside(modules, {name: rows for name in left})


def _is_head(model: Any, name: str) -> bool:
    """Whether a module that the user named is the output head."""
    head = model.get_output_embeddings()
    return any(m is head and (full == name or full.endswith("." + name)) for full, m in model.named_modules())


def _refuse_changed_embeddings(model: Any, config: Config, rows: list[int]) -> None:
    """LoRA beside a matrix whose rows are trained, or PiSSA in a shared one, would change what others read."""
    parts = {name.rsplit(".", 1)[-1] for name in embedding_names(model)}
    head = next((n for n in config.lora_target if _is_head(model, n)), None)
    targeted = [name for name in config.lora_target if name.rsplit(".", 1)[-1] in parts or name == head]
    if targeted and rows:
        raise ConfigError(
            f"`lora_target` names {targeted[0]}, which also gets rows for new tokens",
            fix=f"name it in additional_target instead of lora_target: `additional_target: {targeted[0]}`",
        )
    if targeted and (config.pissa_init or config.loftq_init):
        raise ConfigError(
            f"`lora_target` names {targeted[0]}: pissa_init and loftq_init change the weights of the layers they adapt",
            why="an embedding is read by rows and may be shared with the output head",
            fix="use `lora_target: all`, which leaves the embeddings out",
        )


def _refuse_quantized(model: Any, key: str) -> None:
    if getattr(model.get_base_model(), "is_quantized", False):
        raise ConfigError(
            f"`{key}` changes the base's weights, which a quantized model cannot do",
            fix="use the unquantized model, or `loftq_init: true`, which is made for quantized bases",
        )


def _require_its_base(adapter: Path, config: Config) -> None:
    """An adapter that was started by LoftQ belongs to the base that its run wrote."""
    base = loftq.own_base(adapter)
    if base is not None and Path(str(config.model_name_or_path)).resolve() != base.resolve():
        raise ModelError(
            f"the adapter {adapter} belongs to the base {base}, which its run wrote (loftq_init)",
            why="beside the original weights it would be wrong",
            fix=f"set `model_name_or_path: {base}`",
        )


def _refuse_another_shape(adapter: Path, config: Config, tokenizer: Any, say: Say) -> None:
    """A continued adapter keeps the shape that it was made with."""
    require_adapter(adapter)
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
    say(f"going on with the adapter {adapter}: it keeps the rank and the modules that it was made with")
