"""`tunesmith expand`: a deeper model that computes the same, for training in the LLaMA Pro way.

After every num_layers / num_expand layers a copy of the last of them is put in, whose projections back into the
residual stream (`o_proj`, `down_proj`) are zero: it adds nothing, so the logits are unchanged to the bit, whatever the
dtype. Both models answer one row before the folder gets its name. Then `use_llama_pro: true` with
`freeze_trainable_layers: num_expand` trains the copies alone. Cost: two loads of the model, one after the other.
Reference: Wu et al., "LLaMA Pro: Progressive LLaMA with Block Expansion", arXiv 2401.02415.
"""

from __future__ import annotations

import copy
import gc
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.folder import written_beside
from tunesmith.model.load import inference_dtype, load_model, model_folder
from tunesmith.model.quiet import quiet_transformers

SILENCED = ("o_proj", "down_proj")
_NUM_PROBE_TOKENS = 32


def expand(config: Config, say: Callable[[str], None] = print) -> Path:
    """Write the expanded model to `output_dir`, and check that it computes what the original does. Returns the folder.

    Args:
        config: read for `model_name_or_path`, `num_expand`, `output_dir` and `infer_dtype`.

    Raises:
        ConfigError: the number of blocks does not divide the layers, or the folder exists.
        ModelError: the model's blocks are built in another way, or the expanded model computes something else.
    """
    assert config.num_expand is not None
    assert config.output_dir is not None
    destination, source = Path(config.output_dir), model_folder(config)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"`output_dir: {destination}` holds something already", fix="name a new folder")
    model = _load(config)
    num_layers = len(model.get_decoder().layers)
    if num_layers % config.num_expand:
        fitting = ", ".join(str(n) for n in range(1, num_layers + 1) if num_layers % n == 0)
        raise ConfigError(
            f"`num_expand: {config.num_expand}` does not divide the {num_layers} layers of {source}",
            fix=f"choose one of {fitting}",
        )
    before = _probe(model)
    add_blocks(model, config.num_expand)
    with written_beside(destination) as part:
        with quiet_transformers():
            model.save_pretrained(str(part))
        _copy_other_files(source, part)
        del model
        gc.collect()
        difference = float((_probe(_load(replace(config, model_name_or_path=str(part)))) - before).abs().max())
        if difference != 0:
            raise ModelError(
                f"the expanded model's logits differ by {difference:.3g}",
                why=f"something besides {' and '.join(SILENCED)} of this model adds to the residual stream",
                fix="report the model type; it cannot be expanded faithfully yet",
            )
    say(f"{num_layers} layers -> {num_layers + config.num_expand}; the logits are unchanged: {destination}")
    say(f"train the new blocks: use_llama_pro=true freeze_trainable_layers={config.num_expand}")
    return destination


def _load(config: Config) -> Any:
    return load_model(config, dtype=inference_dtype(config), for_training=False)


@torch.no_grad()
def _probe(model: Any) -> Tensor:
    """Logits (1, T, V) of a fixed row, in float32."""
    ids_BT = torch.randint(model.config.get_text_config().vocab_size, (1, _NUM_PROBE_TOKENS), generator=_generator())
    return model(input_ids=ids_BT, use_cache=False).logits.float()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def add_blocks(model: Any, num_expand: int) -> None:
    """Put `num_expand` silent copies among the model's layers, in place; its configuration is adapted.

    Raises:
        ModelError: a block has no `o_proj` or `down_proj` to silence.
    """
    decoder = model.get_decoder()
    originals = list(decoder.layers)
    group = len(originals) // num_expand
    order = [index for end in range(group, len(originals) + 1, group) for index in (*range(end - group, end), end - 1)]
    layers, used = [], set()
    for index in order:
        layers.append(originals[index] if index not in used else _silent_copy(originals[index]))
        used.add(index)
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    decoder.layers = nn.ModuleList(layers)
    _adapt_config(model.config.get_text_config(), order, len(originals))


@torch.no_grad()
def _silent_copy(layer: nn.Module) -> nn.Module:
    block = copy.deepcopy(layer)
    found = set()
    for name, parameter in block.named_parameters():
        part = next((part for part in SILENCED if part in name.split(".")), None)
        if part is not None:
            parameter.zero_()
            found.add(part)
    if len(found) < len(SILENCED):
        missing = ", ".join(part for part in SILENCED if part not in found)
        raise ModelError(
            f"the blocks of this model have no {missing}",
            why="a copy is made silent by setting the projections back into the residual stream to zero",
            fix="use a model of the Llama, Qwen, Mistral, Gemma or Phi-3 kind",
        )
    return block


def _adapt_config(config: Any, order: list[int], num_layers: int) -> None:
    """The number of layers, and whatever the configuration lists for each of them."""
    for key, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == num_layers and key.startswith(("layer", "no_rope")):
            setattr(config, key, [value[index] for index in order])
    config.num_hidden_layers = len(order)


def _copy_other_files(source: Path, part: Path) -> None:
    """Tokenizer, chat template and whatever else the model brings, but for weights and what was just written."""
    for file in source.iterdir():
        is_weight = file.suffix in (".safetensors", ".bin", ".pth", ".gguf") or file.name.endswith(".index.json")
        if file.is_file() and not is_weight and not (part / file.name).exists():
            shutil.copyfile(file, part / file.name)
