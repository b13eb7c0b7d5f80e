"""What some methods write into the run folder besides weights: LoftQ's own base, and the conversion of PiSSA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.errors import ResumeError
from tunesmith.model.methods import loftq, pissa
from tunesmith.model.methods.places import LOFTQ_BASE


def base_config(config: Config, run: Path, start: Path | None) -> Config:
    """The configuration with the base that the weights are read from: a resumed LoftQ run has one of its own.

    Raises:
        ResumeError: that base is gone.
    """
    if start is None or not loftq.makes_own_base(config):
        return config
    base = run / LOFTQ_BASE
    if not (base / "config.json").is_file():
        raise ResumeError(
            f"{base} is missing: the base that this run's adapter belongs to (loftq_init)",
            fix="restore the folder, or set `overwrite_output_dir: true` to start anew",
        )
    return replace(config, model_name_or_path=str(base))


def write_at_start(model: Any, config: Config, tokenizer: Any, run: Path, start: Path | None) -> None:
    """Write the base that a LoftQ adapter belongs to, unless the run is resumed, and name it in the adapter."""
    if not loftq.makes_own_base(config):
        return
    if start is None:
        loftq.write_base(model, tokenizer, run)
    model.peft_config[loftq.ADAPTER].base_model_name_or_path = str(run / LOFTQ_BASE)


def write_at_end(model: Any, config: Config, run: Path) -> None:
    """Write the three folders of `pissa_convert`."""
    if config.pissa_init and config.pissa_convert:
        pissa.write_conversion(model, run)
