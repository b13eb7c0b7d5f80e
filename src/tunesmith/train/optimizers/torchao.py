"""torchao's AdamW with 4- and 8-bit states, as the loop can drive it.

The package wants its learning rate in a tensor and compiles its update; on a CPU, where compiling takes half a minute
and needs a C++ compiler, the same update runs uncompiled (equal to the last bit there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torchao import optim as torchao_optim


class _Driven:
    """Before torchao's classes: the learning rate as a number or a tensor, and the choice to compile."""

    param_groups: list[dict[str, Any]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)
        try:
            with _uncompiled(self.param_groups[0]["params"][0].device):
                return super().step(closure)  # type: ignore[misc]
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


@contextmanager
def _uncompiled(device: torch.device) -> Iterator[None]:
    if device.type != "cpu":
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class AdamW4bit(_Driven, torchao_optim.AdamW4bit):
    """AdamW with 4-bit states (Li et al., arXiv 2309.01507)."""


class AdamW8bit(_Driven, torchao_optim.AdamW8bit):
    """AdamW with 8-bit states (Dettmers et al., arXiv 2110.02861)."""
