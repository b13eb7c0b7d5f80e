"""What an optimizer needs around the steps of the loop, whichever kind it is.

`before_last_backward` and `clip` bracket the last backward pass of a step; `settled_weights` shows the weights that
are meant to be used (evaluation, checkpoints, the final model) where training moves others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tunesmith.train.optimizers.layerwise import Layerwise


def before_last_backward(optimizer: torch.optim.Optimizer) -> None:
    """Tell the optimizer that the next backward pass completes the gradients of the step."""
    if isinstance(optimizer, Layerwise):
        optimizer.arm()


def updates_in_backward(optimizer: torch.optim.Optimizer) -> bool:
    """Whether weights have moved by the time the backward pass is over."""
    return isinstance(optimizer, Layerwise)


def clip(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scale all gradients so that their common norm is at most `limit`. Returns the norm before.

    Layer-wise updates are over by now: their norm is returned and nothing is scaled.
    """
    if isinstance(optimizer, Layerwise):
        return optimizer.disarm()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(gradient.is_sparse for gradient in gradients):
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    values = [_values(gradient) for gradient in gradients]
    norm = math.sqrt(math.fsum(float(value.float().square().sum()) for value in values))
    share = limit / (norm + 1e-6)
    if share < 1:
        for value in values:
            value.mul_(share)
    return norm


def _values(gradient: Tensor) -> Tensor:
    """The numbers of a gradient; of a sparse one, those that are there."""
    return gradient._values() if gradient.is_sparse else gradient


@contextmanager
def settled_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The averaged weights of a schedule-free optimizer inside the block, those that train again afterwards.

    They are put back from copies, as moving there and back would round: a run that evaluates or saves more often
    must not differ from one that does not. Every other optimizer trains the weights that are used.
    """
    if not is_schedule_free(optimizer):
        yield
        return
    kept = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)


def is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer trains other weights than those it recommends (its groups say which they hold)."""
    return all("train_mode" in group for group in optimizer.param_groups)
