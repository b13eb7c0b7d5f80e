"""What the chosen optimizer needs of this machine, checked before anything is read: packages, torch, ranks, device."""

from __future__ import annotations

import importlib.util

import torch

from tunesmith.config import Config
from tunesmith.config.optimizers import chosen_optimizer, is_layerwise
from tunesmith.errors import ConfigError

ALSO = {"galore_torch": ("bitsandbytes",), "apollo_torch": ("bitsandbytes",)}
"""Packages that another one imports without being able to do without."""


def check_optimizer(config: Config, device: torch.device, num_ranks: int) -> list[str]:
    """Check that the optimizer can run here.

    Returns:
        Sentences about what it does otherwise on this device.

    Raises:
        ConfigError: a package is missing, torch is too old, or the optimizer cannot work on several ranks.
    """
    what, info = chosen_optimizer(config)
    missing = [name for name in (info.package, *ALSO.get(info.package, ())) if name and not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"`{what}` needs a package that is not installed: {', '.join(missing)}",
            fix=f"pip install 'tunesmith[{info.extra}]'",
        )
    if config.use_muon and not hasattr(torch.optim, "Muon"):
        raise ConfigError(
            f"`use_muon` needs torch 2.9 or newer, and this is {torch.__version__}", fix="pip install -U torch"
        )
    if num_ranks > 1:
        _check_ranks(config, what, num_ranks)
    if config.optim.startswith("paged_") and device.type == "cpu":
        return [f"optim: {config.optim} has nothing to page out on a CPU: its states lie in ordinary memory"]
    return []


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _check_ranks(config: Config, what: str, num_ranks: int) -> None:
    if is_layerwise(config):
        raise ConfigError(
            f"layer-wise updates (`{what}`) cannot run on {num_ranks} processes",
            why="each weight would move before its gradient has been summed over the processes",
            fix="turn the layer-wise updates off, or run one process",
        )
    if config.use_badam:
        raise ConfigError(
            f"`use_badam` cannot run on {num_ranks} processes",
            why="the set of trained weights changes, which the exchange of gradients is built around",
            fix="run one process, or use GaLore or APOLLO",
        )
