"""Runs a language model over a flat row and scores the supervised tokens only.

What a loss wants beyond their log-probabilities (values of a value head, numbers made from whole rows of
logits) it asks for with `Want`.

The decoder runs once over the row; the head runs where a label is (`loss/scores.py`). What the model does
to its logits afterwards (a scale, a soft cap) is taken from its configuration and *checked*: before the
first step `verify_scorer` compares the scores with the model's own logits, and each document of a packed
row with the same document alone, on this model and this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunesmith.data.collate import Batch, collate
from tunesmith.data.store import ExampleStore
from tunesmith.errors import ModelError
from tunesmith.loss.scores import CHUNK_TOKENS, LogitFunction, LogitTransform, TokenScores, Want, head_log_prob
from tunesmith.model.evaluating import evaluating
from tunesmith.model.frozen_states import num_frozen_layers, standing_in, states_before
from tunesmith.model.value_head import ValueHead


class Scorer(nn.Module):
    """A causal language model (with or without adapters) as a function Batch -> TokenScores.

    Args:
        model: a transformers causal language model, or a PEFT model around one.
        compute_dtype: dtype of the matrix products; unlike the weights' dtype it runs under autocast.
        device_type: "cpu", "cuda", ...; where autocast applies.
        value_head: maps hidden states (T, D) to values (T) in fp32, where a stage trains or needs one.
    """

    def __init__(
        self, model: Any, compute_dtype: torch.dtype, device_type: str, value_head: ValueHead | None = None
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.value_head = value_head
        self.compute_dtype = compute_dtype
        self.device_type = device_type
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        self._decoder = (base.get_decoder(),)  # in a tuple: not registered a second time as a submodule
        self._head = (base.get_output_embeddings(),)
        self.transform = logit_transform(base.config)
        self.num_skipped = 0
        """How many of the first layers are left out for rows that bring the states of these layers along."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in `compute_dtype`; norms, softmax and the loss stay in fp32."""
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.compute_dtype)

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return len(getattr(self._decoder[0], "layers", ()))

    def num_frozen_layers(self) -> int:
        """How many of the first layers give the same states whenever they run."""
        trained = [p for p in self.parameters() if p.requires_grad]
        after = [self._head[0], *([] if self.value_head is None else [self.value_head])]
        return num_frozen_layers(self._decoder[0], trained, after)

    def states_before(self, layer: int, batch: Batch) -> Tensor:
        """What layer `layer` is given at every position of the row, (T, D); after the last: what the norm is given."""
        layers = self._decoder[0].layers
        after = layers[layer] if layer < len(layers) else self._decoder[0].norm
        return states_before(after, lambda: self.hidden(batch))

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's output at every position of the row, (T, D)."""
        skipped: AbstractContextManager[None] = nullcontext()
        if self.num_skipped and batch.states_TD is not None:
            skipped = standing_in(self._decoder[0].layers[: self.num_skipped], batch.states_TD)
        with self.autocast(), skipped:
            output = self._decoder[0](
                input_ids=batch.input_ids_BT,
                position_ids=batch.positions_BT,
                use_cache=False,
                document_bounds=batch.documents,
            )
        return output.last_hidden_state.flatten(0, 1)

    def logits(self, hidden_CD: Tensor, temperature: float = 1.0) -> Tensor:
        """The model's logits for some hidden states over a temperature, (C, V) in fp32."""
        transform = self.transform.at(temperature)
        with self.autocast():
            logits_CV = self._head[0](hidden_CD).float() * transform.scale
        if transform.softcap is not None:
            logits_CV = transform.softcap * torch.tanh(logits_CV / transform.softcap)
        return logits_CV

    def forward(self, batch: Batch, want: Want | None = None) -> TokenScores:
        """Scores of the N supervised tokens of the row, in sequence order."""
        want = want or Want()
        hidden_TD = self.hidden(batch)
        values_T = None
        if want.values:
            assert self.value_head is not None, "the stage did not give the scorer a value head"
            values_T = self.value_head(hidden_TD)
        empty_N = hidden_TD.new_zeros(0, dtype=torch.float32)
        numbers: Mapping[str, Tensor] = {}
        if want.logp or want.function is not None:
            numbers = self._score(hidden_TD[batch.where_N], batch.targets_N, want)
        extra = {name: value for name, value in numbers.items() if name not in ("logp", "correct")}
        return TokenScores(
            numbers.get("logp", empty_N),
            batch.weights_N,
            batch.sequence_N,
            batch.num_sequences,
            numbers.get("correct"),
            values_T,
            extra,
        )

    def _score(self, hidden_ND: Tensor, targets_N: Tensor, want: Want) -> Mapping[str, Tensor]:
        with_correct = want.correct if want.correct is not None else not self.training
        head = self._head[0]
        if hasattr(head, "modules_to_save"):  # PEFT's full copy of the head, when it is an additional target
            head = head.original_module if head.disable_adapters else head.modules_to_save[head.active_adapters[0]]
        if type(head) is nn.Linear and want.function is None:
            bias = None if head.bias is None else head.bias.to(self.compute_dtype)
            weight = head.weight.to(self.compute_dtype)
            transform = self.transform.at(want.temperature)
            logp_N, correct_N = head_log_prob(
                hidden_ND, weight, targets_N, bias_V=bias, transform=transform, want_correct=with_correct
            )
            return {"logp": logp_N} if correct_N is None else {"logp": logp_N, "correct": correct_N}
        return self._score_by_logits(hidden_ND, targets_N, want.function, want.temperature)

    def _score_by_logits(
        self, hidden_ND: Tensor, targets_N: Tensor, function: LogitFunction | None, temperature: float
    ) -> Mapping[str, Tensor]:
        """The same where the head is more than a matrix, or its logits are wanted: in chunks, made again for the
        backward pass."""

        def chunk(hidden: Tensor, targets: Tensor, part: slice) -> dict[str, Tensor]:
            logits = self.logits(hidden, temperature)
            logp = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
            own = {} if function is None else function(logits, targets, part)
            return {"logp": logp, "correct": logits.argmax(-1) == targets, **own}

        num_tokens = len(targets_N)
        parts = [slice(start, start + CHUNK_TOKENS) for start in range(0, max(num_tokens, 1), CHUNK_TOKENS)]
        pieces = [checkpoint(chunk, hidden_ND[p], targets_N[p], p, use_reentrant=False) for p in parts]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


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


def verify_scorer(scorer: Scorer, store: ExampleStore, indices: Sequence[int], device: torch.device) -> float:
    """Prove on this model that scores are right, and that the documents of a row do not see each other.

    Args:
        indices: some short examples. They are scored in one row, and each of their sequences in a row of its own.

    Returns:
        The largest difference between the two, in nats.

    Raises:
        ModelError: the model cannot be scored this way.
    """
    sequences = store.unfold(indices)
    alone = [collate(sequences, [number]).to(device) for number in range(len(sequences))]
    with evaluating(scorer):
        packed = scorer(collate(store, indices).to(device)).logp_N
        single = torch.cat([scorer(document).logp_N for document in alone])
        references = [_logp_by_full_logits(scorer, document) for document in alone]
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
            input_ids=document.input_ids_BT, use_cache=False, document_bounds=document.documents
        ).logits
    logits_TV = logits[0].float()
    logp_NV = logits_TV[document.where_N].log_softmax(-1)
    return logp_NV.gather(-1, document.targets_N[:, None])[:, 0], float(logits_TV.abs().max())


def _largest(difference_N: Tensor) -> float:
    return float(difference_N.abs().max()) if difference_N.numel() else 0.0
