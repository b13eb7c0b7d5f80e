"""Parameter groups: which weights decay, and the highest learning rate of each.

A group carries `peak_lr`, which the schedule's factor multiplies, so that learning rates may differ from group to group
under one schedule. Weight decay spares what has one dimension (norms, biases, magnitude vectors).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tunesmith.config import Config


@dataclass(frozen=True)
class Trained:
    """One trained parameter: how it is called, the highest learning rate it gets, and whether it decays."""

    name: str
    parameter: nn.Parameter
    peak_lr: float
    decays: bool

    @property
    def key(self) -> tuple[float, bool]:
        """Parameters of one key share a group."""
        return self.peak_lr, self.decays


def trained_parameters(
    model: nn.Module, config: Config, own_rates: Sequence[tuple[Iterable[nn.Parameter], float]] = ()
) -> list[Trained]:
    """Every trainable parameter, each once, with its learning rate.

    Args:
        own_rates: further parameters with a highest learning rate of their own (such as a value head's).
    """
    embeddings = embedding_ids(model)
    given = {id(parameter): rate for parameters, rate in own_rates for parameter in parameters}
    trained = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = given.get(id(parameter))
        if rate is None:
            rate = _learning_rate(name, parameter, config, in_embedding=id(parameter) in embeddings)
        trained.append(Trained(name, parameter, rate, parameter.ndim >= 2))
    return trained


def _learning_rate(name: str, parameter: nn.Parameter, config: Config, *, in_embedding: bool) -> float:
    if in_embedding and config.embedding_learning_rate is not None:
        return config.embedding_learning_rate
    if config.loraplus_lr_ratio and config.finetuning_type == "lora":
        return loraplus_rate(name, parameter, config)
    return config.learning_rate


def loraplus_rate(name: str, parameter: nn.Parameter, config: Config) -> float:
    """LoRA+ (Hayou et al., arXiv 2402.12354): B learns faster than A by `loraplus_lr_ratio`.

    As in the public tool, everything with one dimension goes with B, and the B of an embedding adapter has
    `loraplus_lr_embedding`.
    """
    if "lora_embedding_B" in name:
        return config.loraplus_lr_embedding
    if "lora_B" in name or parameter.ndim == 1:
        return config.learning_rate * float(config.loraplus_lr_ratio or 1.0)
    return config.learning_rate


def output_head(model: nn.Module) -> nn.Module | None:
    """The output embedding of the language model, wherever in `model` that is."""
    for module in model.modules():
        get = getattr(module, "get_output_embeddings", None)
        head = get() if get is not None else None
        if isinstance(head, nn.Module):
            return head
    return None


def embedding_ids(model: nn.Module) -> set[int]:
    """ids of the weights of the input and output embeddings, copies that an adapter trains included."""
    head = output_head(model)
    tables = [*([] if head is None else [head]), *(m for m in model.modules() if isinstance(m, nn.Embedding))]
    return {id(p) for module in tables for name, p in module.named_parameters() if "lora_" not in name}


def param_groups(trained: Iterable[Trained], decay: float, **options: Any) -> list[dict[str, Any]]:
    """Groups for an optimizer: parameters of one learning rate and decay together, in order of first appearance.

    Matrices come before vectors, so that a plain run has its two groups in the usual order.

    Args:
        decay: the weight decay of those that decay.
        **options: further entries of every group.
    """
    by_key: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for one in trained:
        by_key.setdefault(one.key, []).append(one.parameter)
    ordered = sorted(by_key.items(), key=lambda item: not item[0][1])
    return [
        {"params": params, "weight_decay": decay if decays else 0.0, "lr": rate, "peak_lr": rate, **options}
        for (rate, decays), params in ordered
    ]
