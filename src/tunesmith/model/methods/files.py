"""What some methods write into the run folder besides weights: LoftQ's own base, and the conversion of PiSSA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.model.methods import loftq, pissa
from tunesmith.model.methods.places import LOFTQ_BASE


def write_at_start(model: Any, config: Config, tokenizer: Any, run: Path, *, is_resumed: bool) -> None:
    """Write the base that a LoftQ adapter belongs to, unless the run is resumed, and name it in the adapter."""
    if loftq.makes_own_base(config):
        if not is_resumed:
            loftq.write_base(model, tokenizer, run)
        model.peft_config[loftq.ADAPTER].base_model_name_or_path = str(run / LOFTQ_BASE)


def write_at_end(model: Any, config: Config, run: Path) -> None:
    """Write the three folders of `pissa_convert`."""
    if config.pissa_init and config.pissa_convert:
        pissa.write_conversion(model, run)
