"""The machine and the processes: device, precision, ranks, and how gradients are summed over them.

The only module that knows accelerate. It starts the process group from the environment that torchrun sets,
wraps the model for data parallel training, and adds numbers up over ranks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from tunesmith.config.resolve import Resolved
from tunesmith.errors import ConfigError
from tunesmith.model.quantized_layers import packed_parameter_names


class Runtime:
    """One rank of a run.

    Args:
        use_cpu: stay on the CPU even where there is an accelerator.
        ddp_timeout_s: how long a rank waits for the others in a collective.
    """

    def __init__(self, *, use_cpu: bool = False, ddp_timeout_s: int = 1800) -> None:
        from datetime import timedelta

        handlers = [InitProcessGroupKwargs(timeout=timedelta(seconds=ddp_timeout_s))]
        cpu = use_cpu or not torch.accelerator.is_available()
        self._accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=handlers)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks."""
        return self._accelerator.is_main_process

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, data parallel when there are several ranks.

        Every rank has packed the weights of the same files, so packed tensors are not broadcast; some cannot be.
        """
        module._ddp_params_and_buffers_to_ignore = packed_parameter_names(module)  # type: ignore[assignment]
        return self._accelerator.prepare_model(module.to(self.device))

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Backward passes inside do not exchange gradients; the last one of a step must be outside."""
        return self._accelerator.no_sync(module)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks, in fp64."""
        if self.world_size == 1:
            return [float(value) for value in values]
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        total: Tensor = self._accelerator.reduce(torch.tensor(values, dtype=exact, device=self.device), "sum")
        return [float(value) for value in total.tolist()]

    def wait(self) -> None:
        """Until every rank is here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group."""
        self._accelerator.end_training()
        if self.world_size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def seed_everything(seed: int, *place: int) -> None:
    """Set every random generator from the seed and a place (step, rank, micro-batch).

    The dropout of a step is a function of where it is, not of what ran before, so a resumed step draws the
    same numbers without any generator state being stored.
    """
    words = np.random.SeedSequence([seed, *place]).generate_state(2, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(int(words[0] % (1 << 32)))
    torch.manual_seed(int(words[1] >> np.uint64(1)))


def precision(resolved: Resolved, device: torch.device) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
    """(compute, frozen weights, trainable weights) dtypes.

    bf16 and fp16: products in that dtype, frozen weights stored in it, trained weights in fp32. pure_bf16:
    everything in bf16. Neither: fp32.

    Raises:
        ConfigError: the device cannot compute in the dtype that was asked for.
    """
    config = resolved.config
    if config.fp16:
        if device.type == "cpu":
            raise ConfigError(
                "`fp16: true` cannot be honoured on a CPU",
                where=_where(resolved, "fp16"),
                why="fp16 training needs loss scaling and fp16 kernels, which only accelerators have",
                fix="write `bf16: true` in its place (same memory, fast on CPUs with AVX512-BF16 or AMX), or remove it",
            )
        return torch.float16, torch.float16, torch.float32
    if config.bf16 or config.pure_bf16:
        if device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ConfigError(
                f"`bf16` cannot be honoured by {torch.cuda.get_device_name(device)}",
                where=_where(resolved, "pure_bf16" if config.pure_bf16 else "bf16"),
                fix="write `fp16: true` in its place",
            )
        keeps_copies = config.use_badam and config.badam_mode == "layer"  # fp32 ones, of the layer that trains
        return torch.bfloat16, torch.bfloat16, torch.bfloat16 if config.pure_bf16 or keeps_copies else torch.float32
    return torch.float32, torch.float32, torch.float32


def _where(resolved: Resolved, key: str) -> str:
    return resolved.origins[key].where or key


def available_memory_bytes(device: torch.device) -> int | None:
    """Memory free on the device now; None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device.type == "cpu" and meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def mapped_ranges(suffix: str) -> list[tuple[int, int]]:
    """Addresses (start, end) where this process has mapped files of that suffix; empty where it cannot be told."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return []
    lines = [line.split() for line in maps.read_text().splitlines() if line.endswith(suffix)]
    borders = [line[0].split("-") for line in lines]
    return [(int(start, 16), int(end, 16)) for start, end in borders]


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held: on the device, or resident where it is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
