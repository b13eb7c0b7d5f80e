"""The value head of a reward model or a critic: one number per hidden state, and the file that keeps it.

The file `value_head.safetensors` stands beside the adapter or the model and has the keys `v_head.summary.weight` (1, D)
and `v_head.summary.bias` (1), the names under which other tools keep theirs, so reward models can be exchanged.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.model.verify import verify_safetensors

VALUE_HEAD = "value_head.safetensors"
WEIGHT, BIAS = "v_head.summary.weight", "v_head.summary.bias"


class ValueHead(nn.Module):
    """A linear map from hidden states to values, in fp32 whatever the model computes in.

    Args:
        hidden_size: width D of the hidden states.
        dropout: share of the hidden state that is dropped in training.
    """

    def __init__(self, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.summary = nn.Linear(hidden_size, 1, dtype=torch.float32)

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """Values of hidden states: (..., D) of any float dtype -> (...) in fp32."""
        with torch.autocast(hidden_TD.device.type, enabled=False):  # it would narrow the sum over D
            return self.summary(self.dropout(hidden_TD.float()))[..., 0]


def save_value_head(head: ValueHead, folder: Path) -> None:
    """Write `value_head.safetensors` into a folder."""
    tensors = {WEIGHT: head.summary.weight, BIAS: head.summary.bias}
    save_file({name: t.detach().cpu().float().contiguous() for name, t in tensors.items()}, folder / VALUE_HEAD)


def require_value_head(folder: Path) -> Path:
    """The file of the value head in a folder. Raises: ModelError when it is not there or damaged."""
    file = folder / VALUE_HEAD
    if not file.is_file():
        raise ModelError(
            f"{folder} holds no {VALUE_HEAD}",
            why="it is no reward model: what turns its hidden state into a score is not there",
            fix="name the output folder of a run with stage: rm",
        )
    verify_safetensors(file)
    return file


def load_value_head(folder: Path, hidden_size: int) -> ValueHead:
    """The value head that stands in a folder, on the CPU, without dropout.

    Raises:
        ModelError: there is none, it is damaged, or it belongs to a model of another width.
    """
    file = require_value_head(folder)
    tensors = load_file(file)
    for name, shape in ((WEIGHT, (1, hidden_size)), (BIAS, (1,))):
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            what = f"has no {name}" if found is None else f"has {name} of shape {found}, the model needs {shape}"
            raise ModelError(f"{file} {what}", fix="use the value head that was trained with this base model")
    head = ValueHead(hidden_size)
    head.summary.load_state_dict({"weight": tensors[WEIGHT].float(), "bias": tensors[BIAS].float()})
    return head.eval()
