"""GaLore on bitsandbytes' 8-bit AdamW, on any device.

The class of galore-torch fixes the order of arguments of an older bitsandbytes and waits for CUDA after every weight;
here its projector and bitsandbytes' update are put together anew: the update of a weight that is zero, made in the
projected space, is projected back and added to the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.optim import AdamW
from galore_torch.galore_projector import GaLoreProjector
from torch import nn


class GaLoreAdamW8bit(AdamW):
    """AdamW with 8-bit states; groups with a `rank` are projected.

    Args: those of bitsandbytes' AdamW, without `optim_bits`.
    """

    def __init__(self, params: Any, **arguments: Any) -> None:
        super().__init__(params, optim_bits=8, **arguments)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update."""
        assert closure is None
        if not self.initialized:
            self.check_overrides()
            self.to_gpu()
            self.initialized = True
        for number, group in enumerate(self.param_groups):
            for place, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                if "rank" in group:
                    self._projected_step(group, parameter, number, place)
                else:
                    self._plain_step(group, parameter, number, place)

    def _plain_step(self, group: dict[str, Any], parameter: nn.Parameter, number: int, place: int) -> None:
        if "state1" not in self.state[parameter]:
            self.init_state(group, parameter, number, place)
        self.prefetch_state(parameter)
        self.update_step(group, parameter, number, place)

    def _projected_step(self, group: dict[str, Any], parameter: nn.Parameter, number: int, place: int) -> None:
        state = self.state[parameter]
        if "projector" not in state:
            state["projector"] = GaLoreProjector(
                group["rank"],
                update_proj_gap=group["update_proj_gap"],
                scale=group["scale"],
                proj_type=group["proj_type"],
            )
        weight, low = parameter.data, state["projector"].project(parameter.grad, state.get("step", 0))
        parameter.data = torch.zeros_like(low, dtype=weight.dtype)
        parameter.grad = low.to(weight.dtype)
        self._plain_step({**group, "weight_decay": 0.0}, parameter, number, place)
        update = state["projector"].project_back(parameter.data)
        parameter.grad, parameter.data = None, weight.add_(update)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
