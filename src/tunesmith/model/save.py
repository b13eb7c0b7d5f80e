"""Write trained weights as plain files: PEFT adapter files, or a transformers model folder. Safetensors only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from tunesmith.model.folder import open_permissions
from tunesmith.model.quiet import quiet_transformers


def save_weights(model: Any, folder: Path) -> None:
    """The adapter of a PEFT model, else the whole model, into a folder (which may hold other files).

    The README that PEFT writes is left out; the run writes its own model card.
    """
    with quiet_transformers():
        model.save_pretrained(str(folder))
    card = folder / "README.md"
    if card.is_file():
        card.unlink()


def save_into(folder: Path, *writers: Any) -> list[str]:
    """Let each writer fill a temporary folder, then move the files into `folder` one by one, replacing older ones.

    Returns:
        The names of the files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".final-", dir=folder) as name:
        part = Path(name)
        for write in writers:
            write(part)
        open_permissions(part)
        names = sorted(path.name for path in part.iterdir())
        for file in names:
            os.replace(part / file, folder / file)
    return names


def is_adapted(model: nn.Module) -> bool:
    """Whether it is a PEFT model."""
    return hasattr(model, "peft_config")
