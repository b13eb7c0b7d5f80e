"""Updates inside the backward pass: each weight moves as soon as its gradient is complete, which is then dropped.

No more than one weight's gradient is alive at a time, where a step is one micro-batch. Where it is several, the earlier
ones add up and the last one triggers the updates, so the update is the same. The norm of all gradients is known only
when all weights have moved: it is reported, not clipped to. A gradient that is not finite moves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.train.optimizers.combined import Combined


class Layerwise(Combined):
    """One optimizer per parameter, stepped by a hook on its gradient while armed.

    Args:
        parts: optimizers of exactly one parameter each.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__(parts)
        self._armed = False
        self._squares: list[torch.Tensor] = []
        for part in self.parts:
            (parameter,) = (p for group in part.param_groups for p in group["params"])
            parameter.register_post_accumulate_grad_hook(self._hook(part))

    def arm(self) -> None:
        """The next backward pass is the last one of the step: update in it."""
        self._armed, self._squares = True, []

    def disarm(self) -> float:
        """The backward pass is over. Returns the norm of all gradients that it used."""
        self._armed = False
        return math.sqrt(math.fsum(float(square) for square in self._squares))

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Nothing is left to do: the weights have moved."""
        assert closure is None

    def _hook(self, part: torch.optim.Optimizer) -> Callable[[nn.Parameter], None]:
        def update(parameter: nn.Parameter) -> None:
            if not self._armed or parameter.grad is None:
                return
            square = parameter.grad.detach().float().square().sum()
            self._squares.append(square)
            if bool(torch.isfinite(square)):
                part.step()
            parameter.grad = None

        return update
