"""The names of a model's modules and layers, and the check that a name which a user wrote exists.

A layer is one of the repeated blocks of the decoder, numbered from 0; `model.layers.3.mlp.up_proj` lies in layer 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from tunesmith.errors import ConfigError, did_you_mean
from tunesmith.model.quantized_layers import is_packed

LAYER_NAME = re.compile(r"^(.*?(?:layers|h|blocks|block))\.(\d+)\.(.+)$")


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer, its weight packed by quantization or not."""
    return isinstance(module, nn.Linear) or is_packed(module)


def num_layers_of(model: nn.Module) -> int:
    """How many numbered layers the model has, by the names of its parameters; 0 when it has none."""
    matches = (LAYER_NAME.match(name) for name, _ in model.named_parameters())
    return 1 + max((int(match[2]) for match in matches if match), default=-1)


def module_names(model: nn.Module) -> list[str]:
    """Every full and every last module name, the forms in which a user may name a module."""
    full = [name for name, _ in model.named_modules() if name]
    return sorted({*full, *(name.rsplit(".", 1)[-1] for name in full)})


def name_of(model: nn.Module, module: nn.Module) -> str:
    """The full name of one of the model's modules."""
    return next(name for name, found in model.named_modules() if found is module)


def require_known(wanted: Sequence[str], known: Iterable[str], key: str, shown: Iterable[str] | None = None) -> None:
    """Check names that a user wrote.

    Args:
        known: the names that exist, full or in part; `shown`: those listed in the message, if not all.

    Raises:
        ConfigError: a name does not exist; the nearest one is named.
    """
    known = set(known)
    for name in wanted:
        if name not in known and not any(full.endswith("." + name) for full in known):
            listing = ", ".join(sorted(shown if shown is not None else known)[:24])
            raise ConfigError(
                f"`{key}`: the model has no module '{name}'",
                fix=f"{did_you_mean(name, known)} It has: {listing}.".strip(),
            )


def linear_targets(model: Any, wanted: Sequence[str], key: str) -> list[str]:
    """Names of the linear layers to adapt; `all` means every one except the output head.

    Raises:
        ConfigError: a name fits no module of the model.
    """
    head = model.get_output_embeddings()
    linear = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if is_linear(m) and m is not head}
    if "all" in wanted:
        return sorted(linear)
    require_known(wanted, module_names(model), key, shown=linear)
    return sorted(wanted)


def targeted_linears(
    model: nn.Module, targets: Sequence[str], layers: Sequence[int] | None
) -> list[tuple[str, nn.Linear]]:
    """(full name, layer) of every linear layer that the targets mean, within the numbered layers if they are given."""
    found = []
    for name, module in model.named_modules():
        if not is_linear(module) or not any(name == t or name.endswith("." + t) for t in targets):
            continue
        match = LAYER_NAME.match(name)
        if layers is None or (match is not None and int(match[2]) in layers):
            found.append((name, module))
    return found
