"""Runs a language model over a flat row and scores the supervised tokens only.

The decoder runs once over the row; the head runs where a label is (`loss/scores.py`). What the model does
to its logits afterwards (a scale, a soft cap) is taken from its configuration and *checked*: before the
first step `verify_scorer` compares the scores with the model's own logits, and each document of a packed
row with the same document alone, on this model and this machine.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunesmith.data.collate import IGNORED, Batch
from tunesmith.errors import ModelError
from tunesmith.loss.scores import CHUNK_TOKENS, LogitTransform, TokenScores, head_log_prob


class Scorer(nn.Module):
    """A causal language model (with or without adapters) as a function Batch -> TokenScores.

    Args:
        model: a transformers causal language model, or a PEFT model around one.
        compute_dtype: dtype of the matrix products; unlike the weights' dtype it runs under autocast.
        device_type: "cpu", "cuda", ...; where autocast applies.
    """

    def __init__(self, model: Any, compute_dtype: torch.dtype, device_type: str) -> None:
        super().__init__()
        self.model: Any = model
        self.compute_dtype = compute_dtype
        self.device_type = device_type
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        self._decoder = (base.get_decoder(),)  # in a tuple: not registered a second time as a submodule
        self._head = (base.get_output_embeddings(),)
        self.transform = logit_transform(base.config)

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in `compute_dtype`; norms, softmax and the loss stay in fp32."""
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.compute_dtype)

    def forward(self, batch: Batch) -> TokenScores:
        """Scores of the N supervised tokens of the row, in row order."""
        with self.autocast():
            output = self._decoder[0](
                input_ids=batch.input_ids_BT,
                position_ids=batch.positions_BT,
                use_cache=False,
                document_bounds=batch.document_bounds,
            )
        hidden_TD = output.last_hidden_state.flatten(0, 1)
        targets_T = batch.targets_BT.flatten()
        where_N = (targets_T != IGNORED).nonzero()[:, 0]
        logp_N, correct_N = self._score(hidden_TD[where_N], targets_T[where_N])
        weight_N = batch.weights_BT.flatten()[where_N]
        return TokenScores(logp_N, weight_N, batch.segments_BT.flatten()[where_N], correct_N)

    def _score(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor | None]:
        head = self._head[0]
        if hasattr(head, "modules_to_save"):  # PEFT's full copy of the head, when it is an additional target
            head = head.modules_to_save[head.active_adapters[0]]
        if type(head) is nn.Linear:
            bias = None if head.bias is None else head.bias.to(self.compute_dtype)
            weight = head.weight.to(self.compute_dtype)
            with_accuracy = not self.training  # it is reported by evaluations only
            return head_log_prob(
                hidden_ND, weight, targets_N, bias_V=bias, transform=self.transform, want_correct=with_accuracy
            )
        return self._score_through_module(head, hidden_ND, targets_N)

    def _score_through_module(self, head: nn.Module, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a head that is more than a matrix (LoRA on it): chunks, recomputed in the backward pass."""

        def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            with self.autocast():
                logits = head(hidden).float() * self.transform.scale
            if self.transform.softcap is not None:
                logits = self.transform.softcap * torch.tanh(logits / self.transform.softcap)
            logp = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
            return logp, logits.argmax(-1) == targets

        pieces = [
            checkpoint(chunk, hidden, targets, use_reentrant=False)
            for hidden, targets in zip(hidden_ND.split(CHUNK_TOKENS), targets_N.split(CHUNK_TOKENS), strict=True)
        ]
        return torch.cat([logp for logp, _ in pieces]), torch.cat([correct for _, correct in pieces])


def logit_transform(config: Any) -> LogitTransform:
    """What the model's own code does to its logits, by the names its configuration gives it."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = 1.0
    if getattr(text, "logits_scaling", None):  # Granite divides
        scale = 1.0 / text.logits_scaling
    elif getattr(text, "logit_scale", None):  # Cohere multiplies
        scale = text.logit_scale
    return LogitTransform(scale, getattr(text, "final_logit_softcapping", None))


RELATIVE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""Of the largest logit: what rounding alone may move a log-probability by when sums are taken in another order.

bf16 has 8 bits, so each logit is rounded by up to 0.2 %, and the hidden state behind it has passed dozens of
roundings; a document that sees another one moves by whole nats.
"""


@torch.no_grad()
def verify_scorer(scorer: Scorer, row: Batch, alone: list[Batch]) -> float:
    """Prove on this model that scores are right and that packed documents do not see each other.

    Args:
        row: a packed row; `alone`: each of its documents as a row of its own, in the same order.

    Returns:
        The largest difference between packed and alone, in nats.

    Raises:
        ModelError: the model cannot be scored this way.
    """
    was_training = scorer.training
    scorer.eval()
    try:
        packed = scorer(row).logp_N
        single = torch.cat([scorer(document).logp_N for document in alone])
        references = [_logp_by_full_logits(scorer, document) for document in alone]
    finally:
        scorer.train(was_training)
    reference = torch.cat([logp for logp, _ in references])
    tolerance = RELATIVE_TOLERANCE[scorer.compute_dtype] * max(1.0, *(largest for _, largest in references))
    own_error = _largest(single - reference)
    if own_error > tolerance:
        raise ModelError(
            f"log-probabilities differ from the model's own logits by {own_error:.2g} nats",
            why="the model transforms its logits in a way that its configuration does not name",
            fix="report the model type; it cannot be trained faithfully yet",
        )
    leak = _largest(packed - single)
    if leak > tolerance:
        raise ModelError(
            f"documents in a packed row see each other: log-probabilities change by {leak:.2g} nats",
            why="this model type mixes tokens outside its attention layers",
            fix="set `micro_batch_tokens: 1`, which gives each document a row of its own",
        )
    return leak


def _logp_by_full_logits(scorer: Scorer, document: Batch) -> tuple[Tensor, float]:
    """The plain way, as reference: the model's own forward with all logits. Also the largest logit."""
    with scorer.autocast():
        logits = scorer.model(
            input_ids=document.input_ids_BT, use_cache=False, document_bounds=document.document_bounds
        ).logits
    targets_T = document.targets_BT[0]
    logits_TV = logits[0].float()
    where_N = targets_T != IGNORED
    logp_NV = logits_TV[where_N].log_softmax(-1)
    return logp_NV.gather(-1, targets_T[where_N, None])[:, 0], float(logits_TV.abs().max())


def _largest(difference_N: Tensor) -> float:
    return float(difference_N.abs().max()) if difference_N.numel() else 0.0
