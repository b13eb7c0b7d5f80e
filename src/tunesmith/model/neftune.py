"""`neftune_noise_alpha`: uniform noise on the input embeddings while training (NEFTune).

Each number of an embedding moves by at most alpha / sqrt(L * D), where L is the length of the document and D the
width. In a flat row L is each document's own length, so a document's noise is the same size alone and packed. The
noise comes from torch's generator, which the loop seeds by (seed, step, rank, micro-batch) like dropout: a resumed
run draws the same numbers; another division into micro-batches draws others of the same size.

The hook on the embedding learns the borders of the documents from the call of the decoder around it.
Reference: Jain et al., "NEFTune", arXiv 2310.05914.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.data.collate import Document
from tunesmith.errors import ModelError


class EmbeddingNoise:
    """The hooks of one model. `remove()` takes them away; an evaluating model gets no noise anyway.

    Args:
        model: a transformers causal language model, or a PEFT model around one.
        alpha: strength of the noise; the paper uses 5 to 15.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha = alpha
        self._documents: Sequence[Document] | None = None
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        self._hooks = (
            base.get_decoder().register_forward_pre_hook(self._note_borders, with_kwargs=True),
            base.get_input_embeddings().register_forward_hook(self._add_noise),
        )

    def remove(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def _note_borders(self, module: nn.Module, _args: Any, kwargs: Mapping[str, Any]) -> None:
        self._documents = kwargs.get("document_bounds")

    def _add_noise(self, module: nn.Module, _args: Any, embeddings_BTD: Tensor) -> Tensor | None:
        if not module.training:
            return None
        if self._documents is None:
            raise ModelError(
                f"{type(module).__name__} was called without the borders of the documents in the row",
                why="the size of the noise depends on the length of each document",
                fix="remove neftune_noise_alpha, and report the model type",
            )
        limit_T = noise_limits(self._documents, self.alpha, embeddings_BTD.shape[-1], embeddings_BTD.device)
        noise_BTD = torch.empty_like(embeddings_BTD, dtype=torch.float32).uniform_(-1, 1) * limit_T[:, None]
        return embeddings_BTD + noise_BTD.to(embeddings_BTD.dtype)


def noise_limits(documents: Sequence[Document], alpha: float, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Largest noise of each token of a row, fp32 (T).

    Args:
        documents: borders of each document's pieces: (start, end), or (start, end of a shared prefix, end of the first
            branch, ...). The length of a branch includes its prefix; that of a prefix its longest branch.
        width: D.
    """
    lengths, counts = [], []
    for borders in documents:
        sizes = [end - start for start, end in pairwise(borders)]
        prefix, branches = sizes[0], sizes[1:]
        counts += sizes
        lengths += [prefix + max(branches, default=0), *(prefix + branch for branch in branches)]
    length_P = torch.tensor(lengths, dtype=torch.float32, device=device)
    return (alpha / torch.sqrt(length_P * width)).repeat_interleave(torch.tensor(counts, device=device))
