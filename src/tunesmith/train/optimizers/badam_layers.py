"""BAdam by layers: one transformer layer trains at a time, in fp32, with an optimizer state of its own.

Luo et al., "BAdam: A Memory Efficient Full Parameter Optimization Method", arXiv 2404.02827; the package's
`BlockOptimizer` does the work. The embeddings, the last norm and the head stay as they are. Changed here: weight
decay is the configured one and spares vectors (the package decays everything by its base optimizer's default), the
order of the layers is a function of the seed, what the package prints goes where the run's messages go, and the state
can be saved: the fp32 copies, their optimizer state and the cursor over the layers.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from badam import BlockOptimizer
from torch import Tensor

from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.train.optimizers.catalog import CLASSES, construct, plain_arguments
from tunesmith.train.optimizers.groups import Trained, param_groups

VALUE_HEAD = "value_head."
"""What always trains: it starts from nothing, and every layer is judged through it."""
NEVER = 1 << 62
"""Steps after which a block that is never switched would be."""


class LayerBlocks(BlockOptimizer):
    """The package's optimizer, quiet, with the weight decay that was asked for."""

    def __init__(
        self, base: torch.optim.Optimizer, decay: float, seed: int, say: Callable[[str], None], **arguments: Any
    ) -> None:
        self._decay, self._seed, self._say = decay, seed, say
        self.active_block = self._told_block = -1
        with _quiet():
            super().__init__(base_optimizer=base, **arguments)

    def switch_trainable_params(self, verbose: int | None = None) -> None:
        """Train the next block; `active_block` is its number."""
        self.active_block = self.current_block_idx
        super().switch_trainable_params(verbose=0)
        self._regroup()

    def _regroup(self) -> None:
        """Decay matrices, spare vectors, and leave the base optimizer no groups without parameters."""
        masters = [p for group in self.base_optimizer.param_groups for p in group["params"]]
        options = {**self.base_optimizer.defaults, "lr": self.param_groups[0]["lr"]}
        self.base_optimizer.param_groups = [
            {**options, "params": params, "weight_decay": decay}
            for params, decay in (
                ([p for p in masters if p.ndim >= 2], self._decay),
                ([p for p in masters if p.ndim < 2], 0.0),
            )
            if params
        ]

    def _tell(self) -> None:
        """Say which block trains now, as far as `badam_verbose` asks for it."""
        if self.verbose >= 1:
            self._say(f"BAdam trains {', '.join(self.active_param_prefixs)} from step {self.global_step + 1} on")
        if self.verbose >= 2:
            for name in self.masters():
                self._say(f"  {name}")

    def _update_active_block_idx(self) -> None:
        """Choose the block after this one; a random order is a function of the seed and the step."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed + self.global_step)
            super()._update_active_block_idx()

    def masters(self) -> dict[str, Tensor]:
        """The fp32 copies of the parameters that train now, by name; the base optimizer's state is theirs."""
        return {self.named_parameters_list[index][0]: copy for index, copy in self.param_idx2hp.items()}

    def step(self, *args: Any, **kwargs: Any) -> None:
        """One update of the active block; parameters of it without a gradient are left out."""
        if self.active_block != self._told_block:
            self._told_block = self.active_block
            self._tell()
        for parameter in self.param_idx2lp.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        with _quiet():
            super().step(*args, **kwargs)

    def cursor(self) -> dict[str, Any]:
        """Where the walk over the layers stands, as plain numbers."""
        cursor = {"global_step": self.global_step, "active": self.active_block, "next": self.current_block_idx}
        return {**cursor, "order": list(getattr(self, "block_order", []))}

    def go_to(self, cursor: dict[str, Any]) -> None:
        """Stand where a stored walk stood; states and copies of the block are to be filled in after this."""
        self.current_block_idx = cursor["active"]
        if hasattr(self, "block_order"):
            self.block_order = [0]  # so that switching draws no new order; the stored one is set below
        self.switch_trainable_params()
        self.global_step, self.current_block_idx = cursor["global_step"], cursor["next"]
        if hasattr(self, "block_order"):
            self.block_order = list(cursor["order"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the package's prints and its advice on precision (which precision.py follows) from the screen."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="BAdam expect model")
        yield


def make_layer_blocks(trained: Sequence[Trained], config: Config, say: Callable[[str], None]) -> LayerBlocks:
    """BAdam over the layers that hold trainable parameters.

    Raises:
        ConfigError: there is no such layer, or `badam_start_block` is beyond the last one.
    """
    named = [(one.name, one.parameter) for one in trained]
    blocks = _blocks([name for name, _ in named])
    if not blocks:
        raise ConfigError(
            "`use_badam`: none of the trained weights lies in a numbered layer",
            fix="set `finetuning_type: full`, or `badam_mode: ratio`",
        )
    start = config.badam_start_block
    if start is not None and start >= len(blocks):
        raise ConfigError(
            f"`badam_start_block: {start}` is beyond the last layer",
            fix=f"set it between 0 and {len(blocks) - 1}",
        )
    covered = [name for name, _ in named if any(block in name for block in (*blocks, VALUE_HEAD))]
    if len(covered) < len(named):
        say(f"note: BAdam trains {len(covered)} of {len(named)} tensors, those in layers; the others stay as they are")
    arguments = {"lr": config.learning_rate, **plain_arguments(config)}
    base = construct(CLASSES[config.optim], param_groups(trained, config.weight_decay), "use_badam", **arguments)
    every = config.badam_switch_interval
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LayerBlocks(
            base,
            config.weight_decay,
            config.seed,
            say,
            named_parameters_list=named,
            block_prefix_list=[[block] for block in blocks],
            switch_block_every=every if every is not None and every > 0 else NEVER,
            start_block=start,
            switch_mode=config.badam_switch_mode or "ascending",
            active_modules=[VALUE_HEAD] if any(name.startswith(VALUE_HEAD) for name, _ in named) else [],
            verbose=config.badam_verbose,
        )


def _blocks(names: Sequence[str]) -> list[str]:
    """The prefixes of the numbered layers, in order: `model.layers.0.`, ..."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for place, part in enumerate(parts[1:], 1):
            if part.isdigit():
                found[".".join(parts[: place + 1]) + "."] = None
                break
    return list(found)
