"""Resolve settings in one line: a run that works, or the refusal that the settings end in."""

from __future__ import annotations

import pytest

from tunesmith.config.resolve import Resolved, resolve
from tunesmith.errors import ConfigError

RUNNABLE = ["model_name_or_path=m", "output_dir=out", "dataset=d"]
"""The three settings that no training run can do without."""


def run(*tokens: object, verb: str = "train") -> Resolved:
    """A runnable configuration with the given settings on top."""
    return resolve([*RUNNABLE, *map(str, tokens)], verb=verb)


def refusal(*tokens: object, verb: str = "train", bare: bool = False) -> ConfigError:
    """The error that the settings end in (on top of the runnable ones, unless `bare`)."""
    with pytest.raises(ConfigError) as caught:
        resolve([*([] if bare else RUNNABLE), *map(str, tokens)], verb=verb)
    return caught.value
