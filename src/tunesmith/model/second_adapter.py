"""An adapter beside the one that is trained: a reward model that shares the policy's base weights.

PEFT keeps several adapters in one model, of which one acts. Activating one also decides what is trainable, so both are
put back afterwards; the second adapter never trains and is never saved with the first (`model/save.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft.utils import get_peft_model_state_dict
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.model.adapters import ADAPTER_WEIGHTS, base_of, require_adapter
from tunesmith.model.quiet import quiet_transformers
from tunesmith.model.verify import verify_safetensors


def add_adapter(model: Any, folder: Path, name: str) -> None:
    """Put the adapter of a folder beside the model's own, frozen and inactive.

    Raises:
        ModelError: the folder is no adapter or damaged, or its tensors do not fit the model one to one.
    """
    require_adapter(folder)
    stored = {key for key in verify_safetensors(folder / ADAPTER_WEIGHTS) if key != "__metadata__"}
    fix = f"use one that was trained on this base model; this one was on {base_of(folder) or 'an unknown one'}"
    try:
        with quiet_transformers(), _unchanged(model):
            model.load_adapter(str(folder), name, is_trainable=False)
            expected = set(get_peft_model_state_dict(model, adapter_name=name))
    except (RuntimeError, ValueError, KeyError, TypeError) as err:
        why = " ".join(str(err).strip().splitlines()[:2])
        raise ModelError(f"the adapter {folder} does not fit the model", why=why, fix=fix) from err
    if stored != expected:
        differing = sorted(stored ^ expected)
        raise ModelError(
            f"the adapter {folder} fits the model only in part: {len(differing)} tensors differ",
            where=differing[0],
            fix=fix,
        )


@contextmanager
def acting(model: Any, name: str) -> Iterator[None]:
    """Inside the block the adapter `name` acts in place of the model's own; afterwards everything is as before."""
    own = model.active_adapter
    with _unchanged(model):
        try:
            model.set_adapter(name, inference_mode=True)
            yield
        finally:
            model.set_adapter(own)


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """What is trainable and what is in training mode is afterwards as it was: PEFT decides both anew on each call."""
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for parameter, was_trainable in trainable:
            parameter.requires_grad_(was_trainable)
        for module, was_training in modes:
            module.training = was_training
