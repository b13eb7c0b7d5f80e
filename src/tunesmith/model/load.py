"""Load tokenizers and base models from local folders (or a hub, when the name is a hub id), as safetensors only.

No remote code is ever run and no pickle is ever read. The folder is checked before weights are touched.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tunesmith.config import Config
from tunesmith.config.tokens import new_tokens
from tunesmith.errors import ModelError
from tunesmith.model.download import download
from tunesmith.model.gguf_base import gguf_file_of, gguf_note, unpacked
from tunesmith.model.hub_sources import Remote, cached_folder
from tunesmith.model.hubs import REPOSITORY, hub_of
from tunesmith.model.kernels import choose_attention
from tunesmith.model.moe import experts_per_token
from tunesmith.model.parameters import random_model
from tunesmith.model.quantize import check_base, plan_loading
from tunesmith.model.quantized_layers import is_quantized
from tunesmith.model.quiet import quiet_transformers
from tunesmith.model.rope import RopeDecision, apply_positions, decide_rope
from tunesmith.model.verify import read_model_config, verify_model_folder, verify_tokenizer_folder
from tunesmith.model.vocabulary import add_to_tokenizer, add_tokens_of_adapter

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def model_folder(config: Config) -> Path:
    """The local folder of `model_name_or_path`, downloaded first when it is a hub id and no such folder exists.

    A GGUF file, or a folder with one, is unpacked into a cache folder once.

    Raises:
        ModelError: it is not set, not there, or cannot be downloaded.
    """
    name = config.model_name_or_path
    if not name:
        raise ModelError("`model_name_or_path` is not set", fix="set it to the folder of the base model")
    path = Path(name).expanduser()
    gguf_file = gguf_file_of(path)
    if gguf_file is not None:
        return unpacked(gguf_file, config.cache_dir)
    if path.exists() or not REPOSITORY.match(name) or path.parent.is_dir():
        return path
    return _from_hub(name, config)


def _from_hub(name: str, config: Config) -> Path:
    """The hub client's cached copy when it is whole, else a verified download.

    What is cached is not asked for again: the hub may have moved on, and a run should not change under its user.
    `tunesmith download NAME` fetches what is new.
    """
    remote = Remote(name, hub_of(None), token=_hub_token(config), revision=config.model_revision)
    cached = cached_folder(remote, config.cache_dir)
    if cached is not None:
        try:
            verify_model_folder(cached)
            return cached
        except ModelError:  # a download that broke off: it is gone on with
            pass
    return download(remote, None, cache_dir=config.cache_dir, say=lambda line: print(line, file=sys.stderr, flush=True))


def _hub_token(config: Config) -> str | None:
    return config.ms_hub_token if hub_of(None) == "modelscope" else config.hf_hub_token


def load_tokenizer(config: Config) -> Any:
    """The tokenizer of the base model with the tokens of the given adapters and of the configuration added.

    The renderer repairs its special tokens openly.

    Raises:
        ModelError: the folder or the tokenizer's files are missing or damaged, or an adapter was trained with another.
    """
    tokenizer = _base_tokenizer(model_folder(config))
    for adapter in config.adapter_name_or_path:
        add_tokens_of_adapter(tokenizer, adapter)
    add_to_tokenizer(tokenizer, new_tokens(config))
    return tokenizer


def _base_tokenizer(folder: Path) -> Any:
    verify_tokenizer_folder(folder)
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as err:
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded",
            why=f"{type(err).__name__}: {_first_line(err)}",
            fix="check that tokenizer.json and tokenizer_config.json of the same model are in the folder",
        ) from err


def check_base_model(config: Config, device: torch.device, *, for_training: bool) -> list[str]:
    """Whether the base model can be loaded as asked, before its weights are read.

    Returns:
        Notes for the user on what is done otherwise than the settings or the files may suggest.

    Raises:
        ModelError: it cannot be loaded so on this device, or a package is missing.
    """
    folder = model_folder(config)
    if for_training and config.train_from_scratch:
        return []  # no weights are needed; `load_model` reads the configuration only
    verify_model_folder(folder)
    gguf_file = gguf_file_of(Path(str(config.model_name_or_path)).expanduser())
    notes = [gguf_note(gguf_file, folder)] if gguf_file else []
    return notes + check_base(config, folder, device, for_training=for_training)


def load_model(
    config: Config,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    for_training: bool = True,
    adapters: Sequence[str] = (),
) -> Any:
    """The base model in eval mode, without adapters.

    Args:
        dtype: dtype of its weights.
        for_training: attend document by document over flat rows; otherwise the usual attention with a cache.
        adapters: those that will act on it: the positions that they were trained with are set, nothing else.

    Raises:
        ModelError: damaged folder, a model type that needs remote code, or weights that do not fit it.
        ConfigError: `rope_scaling` or `shift_attn` does not fit the model.
    """
    folder = model_folder(config)
    verify_tokenizer_folder(folder)
    read_model_config(folder)
    settings, attention = _settings(config, folder, for_training, adapters, device)
    if for_training and config.train_from_scratch:
        model = random_model(settings, folder, seed=config.seed, dtype=dtype, attention=attention)
        return model.to(device).eval()
    verify_model_folder(folder)
    plan = plan_loading(config, folder, dtype, torch.device(device), for_training=for_training)
    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=settings,
                dtype=dtype,
                attn_implementation=attention,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **plan.arguments,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as err:
        raise ModelError(
            f"the model in {folder} cannot be loaded",
            why=f"{type(err).__name__}: {_first_line(err)}",
            fix=_load_fix(err),
        ) from err
    model, report = loaded
    _refuse_partial(folder, model, report)
    return plan.finish(model).eval()


def _settings(
    config: Config, folder: Path, for_training: bool, adapters: Sequence[str], device: torch.device | str
) -> tuple[Any, str]:
    """(the model's transformers configuration with its positions set, name of the attention to load it with)."""
    settings = _model_settings(folder)
    decision = decide_rope(config, settings, folder, for_training=for_training, adapters=adapters)
    if decision.scaling is not None:
        apply_positions(settings, decision.scaling.after)
    return settings, choose_attention(config, settings.model_type, for_training=for_training, device=device).name


def model_options(
    config: Config, *, for_training: bool, adapters: Sequence[str] = (), device: torch.device | str = "cpu"
) -> tuple[RopeDecision, list[str]]:
    """How `load_model` will set positions, and what the user should be told about positions and attention.

    Reads no weights.

    Raises: as `load_model` for what the configuration alone shows; ConfigError for `moe_aux_loss_coef` without experts.
    """
    folder = model_folder(config)
    read_model_config(folder)
    settings = _model_settings(folder)
    decision = decide_rope(config, settings, folder, for_training=for_training, adapters=adapters)
    attention = choose_attention(config, settings.model_type, for_training=for_training, device=device)
    if for_training and config.moe_aux_loss_coef:
        experts_per_token(settings)
    return decision, [note for note in (decision.note, attention.note) if note]


def _model_settings(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ModelError(
            f"the model in {folder} cannot be loaded",
            why=f"{type(err).__name__}: {_first_line(err)}",
            fix=_load_fix(err),
        ) from err


def _refuse_partial(folder: Path, model: Any, report: dict[str, Any]) -> None:
    """Weights that the files do not hold would be random: never go on with them."""
    missing = sorted(report.get("missing_keys", ()))
    mismatched = sorted(report.get("mismatched_keys", ()))
    if missing or mismatched:
        names = ", ".join(str(name) for name in (missing + mismatched)[:4])
        raise ModelError(
            f"{folder} lacks {len(missing) + len(mismatched)} tensors of {type(model).__name__}, or not as needed",
            where=names,
            why="they would be filled with random numbers",
            fix="check that config.json and the weights belong to the same model",
        )


def load_for_inference(config: Config, adapters: Sequence[str] = (), device: torch.device | str = "cpu") -> Any:
    """The base model with its adapters, in eval mode, in `infer_dtype` (auto: the dtype of the files).

    Of several adapters all but the last are merged into the base in order, as training does; the last one
    stays beside it.
    """
    from tunesmith.model.adapters import attach_adapters

    dtype = inference_dtype(config)
    model: nn.Module = load_model(config, dtype=dtype, device=device, for_training=False, adapters=adapters)
    adapted = attach_adapters(model, adapters)
    return adapted.eval() if is_quantized(adapted) else adapted.to(device).eval()


def inference_dtype(config: Config) -> torch.dtype:
    """`infer_dtype`, where auto means the dtype that the model's files are in."""
    if config.infer_dtype != "auto":
        return DTYPES[config.infer_dtype]
    stored = AutoConfig.from_pretrained(model_folder(config), trust_remote_code=False).dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32


def _first_line(err: BaseException) -> str:
    return str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__


def _load_fix(err: BaseException) -> str:
    if "trust_remote_code" in str(err) or "custom code" in str(err):
        return "this model brings its own code, which is never run here; use a model type that transformers knows"
    return "check the folder; `tunesmith env` shows the installed versions"
