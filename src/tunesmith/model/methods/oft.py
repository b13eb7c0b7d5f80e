"""OFT: turn the inputs of a layer by a learned block-diagonal rotation instead of adding to its weights.

PEFT would change a block size that does not divide a layer's width to one that does, and only warn; here it is refused.
Reference: Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", arXiv 2306.07280; the
input-centric form with Cayley-Neumann rotations: arXiv 2506.19847.
"""

from __future__ import annotations

from typing import Any

from peft import OFTConfig, TaskType

from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.model.methods.modules import linear_targets, targeted_linears


def oft_config(model: Any, config: Config, saved_modules: list[str]) -> OFTConfig:
    """PEFT's configuration of an OFT adapter.

    Args:
        saved_modules: modules that are trained in full and saved beside it.

    Raises:
        ConfigError: a target does not exist, or the blocks do not fit a layer.
    """
    targets = linear_targets(model, config.oft_target, "oft_target")
    key, size = ("oft_rank", config.oft_rank) if config.oft_rank else ("oft_block_size", config.oft_block_size)
    for name, layer in targeted_linears(model, targets, None):
        if layer.in_features % size:
            widths = {layer.in_features for _, layer in targeted_linears(model, targets, None)}
            fitting = [n for n in range(2, min(widths) + 1) if all(width % n == 0 for width in widths)]
            raise ConfigError(
                f"`{key}: {size}` does not divide the {layer.in_features} inputs of {name}",
                fix=f"choose one that divides every layer's inputs: {', '.join(map(str, fitting[:16]))}",
            )
    return OFTConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.oft_rank,
        oft_block_size=config.oft_block_size,
        module_dropout=config.module_dropout,
        target_modules=targets,
        modules_to_save=saved_modules or None,
        base_model_name_or_path=config.model_name_or_path,
    )
