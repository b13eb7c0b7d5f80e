"""LoRA+: the matrix B learns faster than A.

At initialisation B is zero and A is not, so that equal learning rates leave A nearly still; the paper recommends a
ratio between 2 and 16 or so, with a smaller learning rate for both.
Reference: Hayou et al., "LoRA+", arXiv 2402.12354.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from tunesmith.config import Config


def loraplus_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: Config
) -> list[tuple[list[nn.Parameter], float, bool]]:
    """The trainable parameters in groups with a learning rate of their own.

    B matrices and vectors learn with `learning_rate` x `loraplus_lr_ratio`, the B of an adapted embedding with
    `loraplus_lr_embedding`, everything else with `learning_rate`; without a ratio all with `learning_rate`.

    Args:
        named_parameters: of the model; those that are not trained are passed over.

    Returns:
        (parameters, learning rate, whether weight decay applies) of each group that is not empty; vectors do not decay.
    """
    ratio = config.loraplus_lr_ratio or 1.0
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim >= 2
        if config.loraplus_lr_ratio and "lora_embedding_B" in name:
            rate = config.loraplus_lr_embedding
        elif "lora_B" in name or not decays:
            rate = config.learning_rate * ratio
        else:
            rate = config.learning_rate
        groups.setdefault((rate, decays), []).append(parameter)
    return [(parameters, rate, decays) for (rate, decays), parameters in groups.items()]
