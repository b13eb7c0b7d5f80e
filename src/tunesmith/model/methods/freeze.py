"""Training some of the model's own layers: counted from either end, or only the blocks that were added (LLaMA Pro).

Reference: Wu et al., "LLaMA Pro", arXiv 2401.02415.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from tunesmith.config import Config
from tunesmith.model.methods.layers import expanded_layers, layers_from_either_end
from tunesmith.model.methods.modules import LAYER_NAME, num_layers_of, require_known


def unfreeze_layers(model: nn.Module, config: Config, extra: Collection[str] = ()) -> None:
    """Let the chosen layers learn, whole or only the named modules in them, and the named modules outside them.

    Args:
        extra: full names of modules outside the layers that must learn too.

    Raises:
        ConfigError: a named module does not exist, or the layers do not fit the model.
    """
    parameters = list(model.named_parameters(remove_duplicate=False))
    names = [name for name, _ in parameters]
    inside = sorted({part for name in names if (m := LAYER_NAME.match(name)) for part in m[3].split(".")[:-1]})
    outside = sorted({part for name in names if not LAYER_NAME.match(name) for part in name.split(".")[:-1]})
    require_known(config.freeze_trainable_modules, [*inside, "all"], "freeze_trainable_modules")
    require_known(config.freeze_extra_modules, outside, "freeze_extra_modules")
    chosen, wanted = _layers(model, config), config.freeze_trainable_modules
    model.requires_grad_(False)
    for name, parameter in parameters:  # a tied matrix comes under each of its names
        match = LAYER_NAME.match(name)
        if match:
            learns = int(match[2]) in chosen and ("all" in wanted or bool(set(wanted) & set(match[3].split("."))))
        else:
            learns = bool(set(config.freeze_extra_modules) & set(name.split("."))) or name.rpartition(".")[0] in extra
        if learns:
            parameter.requires_grad_(True)


def _layers(model: nn.Module, config: Config) -> Collection[int]:
    num_layers = num_layers_of(model)
    if config.use_llama_pro:
        return expanded_layers(config.freeze_trainable_layers, num_layers)
    return layers_from_either_end(config.freeze_trainable_layers, num_layers)
