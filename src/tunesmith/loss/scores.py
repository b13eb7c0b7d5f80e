"""The log-probability of each supervised token, without ever holding the logits of a whole row.

The output head is the widest matrix of a small model: its logits for 1,024 tokens and a vocabulary of
150,000 take 600 MB in fp32. Here the head runs only where a label is, a chunk of tokens at a time. With a
frozen head the gradient with respect to the hidden state is made in the forward pass (it is linear in the
incoming gradient, token by token), so the chunk's logits are freed at once; with a trainable head the
chunk is recomputed in the backward pass.

The matrix products stay in the head's dtype; the softmax is fp32.
References: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", arXiv 2411.09009;
Hsu et al., "Liger Kernel", arXiv 2410.10989.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_TOKENS = 128
"""Tokens per chunk: 128 x 49,152 fp32 logits are 25 MB, which the shared cache of a server CPU still holds."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the losses see: one entry per supervised token, N in all, in sequence order.

    Attributes:
        logp_N: fp32 log-probability of the target (empty when it was not wanted).
        weight_N: fp32 loss weight.
        sequence_N: which sequence of the row the token belongs to, 0-based.
        num_sequences: S.
        correct_N: whether the target is the arg max (None when not asked for).
        values_T: fp32 value of each row position (None without a value head).
        extra: what `Want.function` made of the logits, by name, N entries each.
    """

    logp_N: Tensor
    weight_N: Tensor
    sequence_N: Tensor
    num_sequences: int
    correct_N: Tensor | None = None
    values_T: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def sum_by_sequence(self, values_N: Tensor) -> Tensor:
        """Sum of a value over the tokens of each sequence, (S)."""
        return values_N.new_zeros(self.num_sequences).index_add(0, self.sequence_N, values_N)

    @property
    def logp_S(self) -> Tensor:
        """Weighted log-probability of each sequence's supervised tokens."""
        return self.sum_by_sequence(self.logp_N * self.weight_N)

    @property
    def weight_S(self) -> Tensor:
        """Total weight of each sequence: the number of its supervised tokens where all weigh one."""
        return self.sum_by_sequence(self.weight_N)


LogitFunction = Callable[[Tensor, Tensor, slice], Mapping[str, Tensor]]
"""(logits_CV fp32, targets_C, which of the N tokens) -> numbers per token, (C) each. Called chunk by chunk, and again
in the backward pass."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a scorer is asked for.

    Attributes:
        logp: the targets' log-probabilities.
        correct: whether the targets are the arg max; None: in evaluation only.
        values: the value head's output at every row position.
        function: numbers that need whole rows of logits.
        temperature: what the logits are divided by before all this, where answers were sampled so.
    """

    logp: bool = True
    correct: bool | None = None
    values: bool = False
    function: LogitFunction | None = None
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its logits after the head: scaled, then capped. (1.0, None): nothing."""

    scale: float = 1.0
    softcap: float | None = None

    def at(self, temperature: float) -> LogitTransform:
        """The same, then divided by a temperature: c/T tanh((s/T) x / (c/T)) is c tanh(s x / c) / T."""
        return LogitTransform(self.scale / temperature, self.softcap and self.softcap / temperature)


class HeadLogProb(torch.autograd.Function):
    """log softmax(transform(hidden @ weight^T + bias))[target], chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        transform: LogitTransform,
        chunk_tokens: int,
        want_correct: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns logp_N (fp32) and correct_N (bool; None unless wanted)."""
        hidden = hidden_ND.to(weight_VD.dtype)
        head_is_frozen = not (weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad))
        wants_jacobian = head_is_frozen and hidden_ND.requires_grad
        num_tokens = hidden.shape[0]
        logp_N = torch.empty(num_tokens, dtype=torch.float32, device=hidden.device)
        correct_N = torch.empty(num_tokens, dtype=torch.bool, device=hidden.device) if want_correct else None
        jacobian_ND = torch.empty_like(hidden) if wants_jacobian else None
        for start in range(0, num_tokens, chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = _logits(hidden[part], weight_VD, bias_V, transform)
            target = targets_N[part, None]
            if correct_N is not None:
                correct_N[part] = logits.argmax(-1) == target[:, 0]
            logp = logits.log_softmax(-1)
            logp_N[part] = logp.gather(-1, target)[:, 0]
            if jacobian_ND is not None:
                jacobian_ND[part] = _dlogits(logits, logp, target, transform).to(hidden.dtype) @ weight_VD
        ctx.transform, ctx.chunk_tokens, ctx.hidden_dtype = transform, chunk_tokens, hidden_ND.dtype
        ctx.has_jacobian = wants_jacobian
        saved = (jacobian_ND,) if jacobian_ND is not None else (hidden, weight_VD, bias_V, targets_N)
        ctx.save_for_backward(*saved)
        if correct_N is not None:
            ctx.mark_non_differentiable(correct_N)
        return logp_N, correct_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """d logp / d hidden, weight, bias."""
        grad_N = grads[0]
        if ctx.has_jacobian:
            (jacobian_ND,) = ctx.saved_tensors
            return (grad_N[:, None] * jacobian_ND).to(ctx.hidden_dtype), None, None, None, None, None, None
        hidden, weight_VD, bias_V, targets_N = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32)
        grad_bias = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for start in range(0, hidden.shape[0], ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            logits = _logits(hidden[part], weight_VD, bias_V, ctx.transform)
            dlogits = _dlogits(logits, logits.log_softmax(-1), targets_N[part, None], ctx.transform)
            dlogits = (dlogits * grad_N[part, None]).to(hidden.dtype)
            grad_hidden[part] = dlogits @ weight_VD
            grad_weight += dlogits.T @ hidden[part]
            if grad_bias is not None:
                grad_bias += dlogits.sum(0, dtype=torch.float32)
        bias_grad = None if grad_bias is None or bias_V is None else grad_bias.to(bias_V.dtype)
        return grad_hidden.to(ctx.hidden_dtype), grad_weight.to(weight_VD.dtype), bias_grad, None, None, None, None


def _logits(hidden: Tensor, weight_VD: Tensor, bias_V: Tensor | None, transform: LogitTransform) -> Tensor:
    """fp32 logits (chunk, V) as the model itself would produce them."""
    logits = torch.nn.functional.linear(hidden, weight_VD, bias_V).float()
    if transform.scale != 1.0:
        logits = logits * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    return logits


def _dlogits(logits: Tensor, logp: Tensor, target: Tensor, transform: LogitTransform) -> Tensor:
    """d logp / d (head output), (chunk, V): one-hot minus softmax, through the transform. Overwrites `logp`."""
    gradient = logp.exp_().neg_()
    gradient.scatter_add_(1, target, torch.ones_like(target, dtype=gradient.dtype))
    if transform.softcap is not None:
        gradient = gradient * (1 - (logits / transform.softcap) ** 2)
    return gradient * transform.scale if transform.scale != 1.0 else gradient


def head_log_prob(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    transform: LogitTransform | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    want_correct: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of the targets under the output head.

    Args:
        hidden_ND: hidden states of the N positions that predict; any float dtype.
        weight_VD: head weights; the products run in this dtype.
        targets_N: int64 token ids to predict.
        transform: what the model does to its logits after the head.

    Returns:
        (logp_N fp32, correct_N bool or None). `want_correct` costs a pass over the logits.
    """
    transform = transform or LogitTransform()
    return HeadLogProb.apply(hidden_ND, weight_VD, bias_V, targets_N, transform, chunk_tokens, want_correct)
