"""Muon and Adam-mini: optimizers that tell the kinds of weights of a transformer apart.

Muon (Jordan 2024; Liu et al., arXiv 2502.16982) orthogonalises the momentum of the layers' matrices; embeddings, head,
vectors and single rows go to AdamW. It is torch's, with the scaling of the second paper, by which AdamW's learning rate
and weight decay fit both. Adam-mini (Zhang et al., arXiv 2406.16793) keeps one second moment per head and neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.config import Config
from tunesmith.config.optimizers import optimizer_options
from tunesmith.errors import ConfigError
from tunesmith.train.optimizers.catalog import construct
from tunesmith.train.optimizers.combined import Combined
from tunesmith.train.optimizers.groups import Trained, embedding_ids, param_groups


def make_muon(
    trained: Sequence[Trained], config: Config, model: nn.Module, say: Callable[[str], None]
) -> torch.optim.Optimizer:
    """Muon for the matrices inside the model, AdamW for the rest."""
    outside = embedding_ids(model)
    matrices = [one for one in trained if _is_hidden_matrix(one, outside)]
    rest = [one for one in trained if not _is_hidden_matrix(one, outside)]
    if not matrices:
        raise ConfigError(
            "`use_muon`: no matrix of a layer is trained", fix="use `optim: adamw_torch`, or train more of the model"
        )
    options = {"adjust_lr_fn": "match_rms_adamw", **optimizer_options(config)}
    parts = [
        construct(
            "torch.optim:Muon",
            param_groups(matrices, config.weight_decay),
            "use_muon",
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            **options,
        )
    ]
    if rest:
        parts.append(
            construct(
                "torch.optim:AdamW",
                param_groups(rest, config.weight_decay),
                "use_muon",
                lr=config.learning_rate,
                betas=(config.adam_beta1, config.adam_beta2),
                eps=config.adam_epsilon,
                fused=config.optim == "adamw_torch_fused",
            )
        )
    return Combined(parts)


def _is_hidden_matrix(one: Trained, outside: set[int]) -> bool:
    """A matrix with more than one row and column that is no embedding, output head or value head."""
    return one.parameter.ndim == 2 and min(one.parameter.shape) > 1 and id(one.parameter) not in outside


def make_adam_mini(
    trained: Sequence[Trained], config: Config, model: nn.Module, say: Callable[[str], None]
) -> torch.optim.Optimizer:
    """Adam-mini over the model's own weights; each parameter is a group.

    The package derives the size of a head from the width of the model; models that say otherwise (`head_dim`) are
    taken at their word.
    """
    config_of_model: Any = next(module.config for module in model.modules() if hasattr(module, "config"))
    sizes = config_of_model.get_text_config()
    width, num_heads = sizes.hidden_size, sizes.num_attention_heads
    optimizer: Any = construct(
        "adam_mini:Adam_mini",
        [(one.name, one.parameter) for one in trained],
        "use_adam_mini",
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        dim=width,
        n_heads=num_heads,
        n_kv_heads=getattr(sizes, "num_key_value_heads", None) or num_heads,
        verbose=False,
    )
    optimizer.head_numel = (getattr(sizes, "head_dim", None) or width // num_heads) * width
    _check_heads(trained, optimizer)
    optimizer.world_size = 1  # every rank holds the whole model, so there is nothing to add up over devices
    rates = {id(one.parameter): one.peak_lr for one in trained}
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] = rates[id(group["params"][0])]
    return optimizer


def _check_heads(trained: Sequence[Trained], optimizer: Any) -> None:
    """Raises: ConfigError where queries or keys do not fall into whole heads, which the package takes for granted."""
    for one in trained:
        is_query_or_key = any(part in one.name.lower() for part in optimizer.wqk_names) and one.parameter.ndim == 2
        if is_query_or_key and one.parameter.numel() % optimizer.head_numel:
            raise ConfigError(
                f"`use_adam_mini`: {one.name} {tuple(one.parameter.shape)} does not fall into heads of "
                f"{optimizer.head_numel:,} weights",
                why="Adam-mini keeps one step size per head of attention, in the usual layout of projections",
                fix="use `optim: adamw_torch` or `use_muon: true` for this type of model",
            )
