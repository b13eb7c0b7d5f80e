"""Write trained weights as plain files: PEFT adapter files, or a transformers model folder. Safetensors only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn

from tunesmith.model.folder import open_permissions
from tunesmith.model.methods import loftq, pissa
from tunesmith.model.quiet import quiet_transformers


def save_weights(model: Any, folder: Path) -> None:
    """The adapter of a PEFT model, else the whole model, into a folder (which may hold other files).

    Only the adapter that acts is written, not one that stands beside it (`model/second_adapter.py`); a PiSSA adapter in
    its ordinary form, for the base as it was before training. The README that PEFT writes is left out; the run writes
    its own model card.
    """
    start = pissa.find_start(model)
    if start is not None:
        pissa.save_as_lora(model, start, folder)
        return
    mark = loftq.mark_of(model)
    if mark is not None:
        mark.write(folder)
    options: dict[str, Any] = {}
    if is_adapted(model):
        options = {"selected_adapters": [model.active_adapter], "save_embedding_layers": adapts_embedding(model)}
    with quiet_transformers():
        model.save_pretrained(str(folder), **options)
    card = folder / "README.md"
    if card.is_file():
        card.unlink()


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """The files of a tokenizer by name, taken once, so that a checkpoint only has to write bytes.

    The tokenizers library reports a full disk as a bare `Exception`; writing bytes reports it as what it is.
    """
    with tempfile.TemporaryDirectory(prefix="tunesmith-tokenizer-") as name:
        tokenizer.save_pretrained(name)
        return {str(file.relative_to(name)): file.read_bytes() for file in Path(name).rglob("*") if file.is_file()}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their names into a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


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


def adapts_embedding(model: Any) -> bool:
    """Whether LoRA stands beside an embedding; PEFT then keeps that embedding itself in the adapter too.

    Left to itself PEFT also keeps both embeddings whole wherever rows were added, although the adapter holds them.
    """
    layers = (model.get_base_model().get_input_embeddings(), model.get_base_model().get_output_embeddings())
    return any(isinstance(layer, LoraLayer) for layer in layers)


def is_adapted(model: nn.Module) -> bool:
    """Whether it is a PEFT model."""
    return hasattr(model, "peft_config")
