"""BAdam by ratio: a share of every matrix trains at a time, with an optimizer state for that share only.

The package's `BlockOptimizerRatio` (see badam_layers.py) holds the masks and takes the steps. Changed here: the share
moves on when a step is over, not inside its backward passes, so that all micro-batches of a step have one mask; the
scattered mask is drawn without disturbing the run's random numbers; `badam_switch_interval` is honoured (the public
tool leaves it at 100); a model without a head of its own can be trained; seeds and offsets can be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from badam import BlockOptimizerRatio
from torch import Tensor, nn

from tunesmith.config import Config
from tunesmith.train.optimizers.badam_layers import NEVER
from tunesmith.train.optimizers.groups import Trained, param_groups


class RatioBlocks(BlockOptimizerRatio):
    """The package's optimizer with masks that hold for a whole step."""

    def sparse_update_hook(self) -> Callable[[nn.Parameter], None]:
        """Replaces a gradient by its masked share, which is sparse, as soon as it is complete."""

        def mask(parameter: nn.Parameter) -> None:
            shape = parameter.shape
            if shape not in self.mask_dict:
                draw = self._generate_mask_adjacent if self.mask_mode == "adjacent" else self._generate_mask_scatter
                with torch.sparse.check_sparse_tensor_invariants(False):
                    self.mask_dict[shape] = draw(parameter, self.update_ratio, self.sparse_dict[parameter]["offset"])
            parameter.grad = parameter.grad.sparse_mask(self.mask_dict[shape])  # type: ignore[union-attr]

        return mask

    def _generate_mask_scatter(self, param: Tensor, ratio: float, offset: int) -> Tensor:
        with torch.random.fork_rng(devices=[param.device] if param.is_cuda else []):
            return super()._generate_mask_scatter(param, ratio, offset)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One update; after the last one of an interval, the masks move on."""
        super().step(closure)
        if self.global_step % self.switch_every:
            return
        self.mask_dict: dict[Any, Any] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                place, size = self.sparse_dict[parameter], parameter.numel()
                place["offset"] = (place["offset"] + int(size * self.update_ratio)) % size

    def cursor(self) -> dict[str, Any]:
        """How many steps have been taken, as a plain number."""
        return {"global_step": self.global_step}

    def go_to(self, cursor: dict[str, Any]) -> None:
        """Stand where a stored run stood; offsets and seeds are to be filled in after this."""
        self.global_step, self.mask_dict = cursor["global_step"], {}


def make_ratio_blocks(trained: Sequence[Trained], config: Config, say: Callable[[str], None]) -> RatioBlocks:
    """BAdam over a share of every matrix; embeddings and head stay as they are."""
    named = [(one.name, one.parameter) for one in trained]
    every = config.badam_switch_interval
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        optimizer = RatioBlocks(
            param_groups=param_groups(trained, 0.0),
            named_parameters_list=named,
            update_ratio=config.badam_update_ratio,
            verbose=config.badam_verbose,
            switch_every=every if every is not None and every > 0 else NEVER,
            mask_mode=config.badam_mask_mode,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            include_embedding=not any("embed" in name for name, _ in named),
            include_lm_head=not any("lm_head" in name for name, _ in named),
        )
    if config.badam_verbose >= 1:
        num = sum(
            int(one.parameter.numel() * config.badam_update_ratio) for one in trained if one.parameter.requires_grad
        )
        say(f"BAdam trains {num:,} weights at a time")
    return optimizer
