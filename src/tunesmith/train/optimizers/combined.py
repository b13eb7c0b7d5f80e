"""Several optimizers, each over parameters of its own, driven as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class Combined(torch.optim.Optimizer):
    """One optimizer made of several; its groups are theirs, so a learning rate set here is set there.

    Args:
        parts: the optimizers; no parameter may be in two of them.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__([{"params": [p for group in groups for p in group["params"]]}], {})
        self.param_groups = groups

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Let every part take its step."""
        assert closure is None
        for part in self.parts:
            part.step()
