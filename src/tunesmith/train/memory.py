"""How much memory a training step takes, from the model's sizes: what gradient checkpointing is decided by.

    need    = weights still to be placed + gradients + optimizer states + casts + activations + head
    weights   bytes of the parameters that are not on the training device yet, or on a CPU still in the mapped file
              (quantized ones as packed)
    gradients bytes of the trained parameters
    states    Adam: twice that; the other optimizers by `STATES_PER_PARAMETER`
    casts     c bytes per trained parameter, where they are stored wider than they are computed with (autocast)
    head      chunks of logits in fp32, and with a trained head its gradient in fp32

Activations are what the forward pass keeps for the backward pass. Per token and decoder layer, in bytes, with c bytes
per computed and s bytes per stored number (bf16 computing on fp32 weights: c = 2, s = 4):

    hidden size      8 + 2c   the two norms in fp32, their outputs     + 2s where norms are trained,
                                                                       + 3c where norms are wider than the products
    MLP width        4c       gate, up, activated gate, their product
    query width      2c       rotated queries, attended values         CPU, bf16, short texts: 8 + c
    key width        2c       rotated keys, values                     CPU, bf16, short texts: 8
    heads            4        log of the softmax sums                  plain formula: + 8 x tokens of the longest text
    adapted layers   c x rank; with dropout 1.5c per input (it and the noise, less what is then not kept)

With checkpointing a layer keeps only its input (s x hidden size), and one layer at a time has the above while its
backward pass runs. The backward pass holds the gradients of one layer's activations besides. On a CPU freed blocks
that the C library keeps are added (`SCATTERED_SHARE`).

The per-layer numbers are those that autograd keeps for a Llama in transformers 5 (held by a test, to 2 %). Models of
another make differ: an MLP without gate keeps less, experts are counted by the width that a token uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.loss.scores import CHUNK_TOKENS
from tunesmith.model.attention import SHORT_DOCUMENT_TOKENS
from tunesmith.train.runtime import mapped_ranges

STATES_PER_PARAMETER = {"sgd": 0.0, "adagrad": 1.0, "rmsprop": 1.0, "adafactor": 0.05}
"""Numbers of an optimizer's state per trained number; those not named keep two, as Adam does."""
SCATTERED_SHARE, SCATTERED_LAYERS = 0.45, 6
"""On a CPU, what freed blocks that the C library holds on to add to the activations; with checkpointing, in layers.
Measured on a 135M Llama by the peak of the process with glibc's usual settings and with every block mapped by itself:
LoRA in bf16, 1,024 tokens 0.39, 2,048 tokens 0.42; fp32, 512 tokens 0.84; checkpointed 6 layers in fp32 and bf16."""
LOGITS_COPIES = 4
"""fp32 copies of a chunk of logits at a time: as computed, log softmax, its gradient, and one in the head's dtype."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder that activations depend on."""

    num_layers: int
    hidden_size: int
    mlp_size: int
    query_size: int
    key_size: int
    num_heads: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class StepShape:
    """How a step computes.

    Attributes:
        row_tokens: tokens of the longest flat row. longest_text: those of the longest document in it.
        compute_bytes, stream_bytes: c and s.
        norms_trained: whether norm weights take gradients. norms_widen: whether norms give out fp32 for bf16 products.
        rank_layers: LoRA rank times adapted layers, summed over one decoder layer. adapted_inputs: width of their
            inputs, summed, where there is dropout; else 0.
        on_cpu, plain_formula: which attention runs.
    """

    row_tokens: int
    longest_text: int
    compute_bytes: int
    stream_bytes: int
    norms_trained: bool = False
    norms_widen: bool = False
    rank_layers: int = 0
    adapted_inputs: int = 0
    on_cpu: bool = True
    plain_formula: bool = False


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The parts of the need, in bytes; `kept` is what checkpointing keeps in place of `activations`."""

    weights: int
    gradients: int
    states: int
    casts: int
    activations: int
    kept: int
    head: int

    def total(self, *, checkpointing: bool) -> int:
        """Bytes that a step takes beyond what the process holds before it."""
        fixed = self.weights + self.gradients + self.states + self.casts + self.head
        return fixed + (self.kept if checkpointing else self.activations)

    def describe(self) -> str:
        """The parts in GB, those that matter."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.states,
            "casts": self.casts,
            "activations": self.activations,
            "head": self.head,
        }
        return ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items() if size > 5e6)


def layer_bytes_per_token(shape: ModelShape, step: StepShape) -> int:
    """What autograd keeps of one decoder layer for one token."""
    c, s = step.compute_bytes, step.stream_bytes
    hidden = 8 + 2 * c + (2 * s if step.norms_trained else 0) + (3 * c if step.norms_widen else 0)
    is_widened = step.on_cpu and c == 2 and step.longest_text <= SHORT_DOCUMENT_TOKENS
    query, key = (8 + c, 8) if is_widened else (2 * c, 2 * c)
    scores = 8 * step.longest_text if step.plain_formula else 0
    return (
        hidden * shape.hidden_size
        + 4 * c * shape.mlp_size
        + query * shape.query_size
        + key * shape.key_size
        + (4 + scores) * shape.num_heads
        + c * step.rank_layers
        + 3 * c * step.adapted_inputs // 2
        + 8
    )


def activation_bytes(shape: ModelShape, step: StepShape) -> tuple[int, int]:
    """(activations, what checkpointing keeps in their place), both with the gradients of one layer's activations."""
    layer = layer_bytes_per_token(shape, step) * step.row_tokens
    inputs = shape.num_layers * step.stream_bytes * shape.hidden_size * step.row_tokens
    activations, kept = (shape.num_layers + 1) * layer, inputs + 2 * layer
    if not step.on_cpu:
        return activations, kept
    return int((1 + SCATTERED_SHARE) * activations), kept + SCATTERED_LAYERS * layer


def head_bytes(shape: ModelShape, step: StepShape, head_trained: bool) -> int:
    """What scoring the tokens takes."""
    chunk = LOGITS_COPIES * 4 * CHUNK_TOKENS * shape.vocab_size
    hidden = (4 + step.compute_bytes) * shape.hidden_size * step.row_tokens
    return chunk + hidden + (4 * shape.vocab_size * shape.hidden_size if head_trained else 0)


def memory_need(
    model: nn.Module,
    *,
    optimizer: str,
    row_tokens: int,
    longest_text: int,
    compute_dtype: torch.dtype,
    device: torch.device,
    plain_formula: bool = False,
) -> MemoryNeed:
    """The need of a step of this model, as it is prepared for training and before it is moved to `device`."""
    shape = shape_of(model)
    parameters = {id(p): p for p in model.parameters()}.values()
    trained = [p for p in parameters if p.requires_grad]
    gradients = sum(p.numel() * p.element_size() for p in trained)
    c = compute_dtype.itemsize
    norms = [p for name, p in model.named_parameters() if "norm" in name and p.ndim == 1]
    rank_layers, adapted_inputs = _adapted(model, shape.num_layers)
    step = StepShape(
        row_tokens=row_tokens,
        longest_text=longest_text,
        compute_bytes=c,
        stream_bytes=_stream_bytes(model, c),
        norms_trained=any(p.requires_grad for p in norms),
        norms_widen=any(p.element_size() > c for p in norms),
        rank_layers=rank_layers,
        adapted_inputs=adapted_inputs,
        on_cpu=device.type == "cpu",
        plain_formula=plain_formula,
    )
    activations, kept = activation_bytes(shape, step)
    return MemoryNeed(
        weights=_bytes_to_place(parameters, device),
        gradients=gradients,
        states=int(STATES_PER_PARAMETER.get(optimizer, 2.0) * gradients),
        casts=sum(p.numel() * c for p in trained if p.element_size() > c and p.ndim > 1),
        activations=activations,
        kept=kept,
        head=head_bytes(shape, step, _head_is_trained(model)),
    )


def _bytes_to_place(parameters: Iterable[nn.Parameter], device: torch.device) -> int:
    """Bytes of parameters that are on another device, or still in a mapped weight file that counts as free memory."""
    mapped = mapped_ranges(".safetensors")
    return sum(
        p.numel() * p.element_size()
        for p in parameters
        if p.device.type != device.type
        or (device.type == "cpu" and any(start <= p.data_ptr() < end for start, end in mapped))
    )


def shape_of(model: Any) -> ModelShape:
    """The sizes by the names that transformers configurations give them; 0 where one is missing."""
    config = model.config.get_text_config()
    hidden = int(getattr(config, "hidden_size", 0))
    num_heads = int(getattr(config, "num_attention_heads", 1))
    head_dim = int(getattr(config, "head_dim", None) or hidden // num_heads)
    num_key_heads = int(getattr(config, "num_key_value_heads", None) or num_heads)
    return ModelShape(
        num_layers=int(getattr(config, "num_hidden_layers", 0)),
        hidden_size=hidden,
        mlp_size=_mlp_size(config, hidden),
        query_size=num_heads * head_dim,
        key_size=num_key_heads * head_dim,
        num_heads=num_heads,
        vocab_size=int(getattr(config, "vocab_size", 0)),
    )


def _mlp_size(config: Any, hidden: int) -> int:
    """The width that one token uses: with experts, that of the chosen ones and of a shared one."""
    top_k = getattr(config, "num_experts_per_tok", None) or 0
    dense = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    if not top_k:
        return dense
    one = int(getattr(config, "moe_intermediate_size", None) or dense)
    return top_k * one + int(getattr(config, "shared_expert_intermediate_size", None) or 0)


def _stream_bytes(model: Any, compute_bytes: int) -> int:
    """Bytes per number of the residual stream, which begins as rows of the embedding."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    weight = getattr(base.get_input_embeddings(), "weight", None)
    return compute_bytes if weight is None else int(weight.element_size())


def _adapted(model: nn.Module, num_layers: int) -> tuple[int, int]:
    """(LoRA rank summed over the adapted modules of one decoder layer, widths of their inputs where dropout acts)."""
    ranks = inputs = 0
    for name, module in model.named_modules():
        if ".lora_A." in name and isinstance(module, nn.Linear):
            ranks += module.out_features
        elif ".lora_dropout." in name and isinstance(module, nn.Dropout) and module.p > 0:
            adapter = model.get_submodule(name.replace(".lora_dropout.", ".lora_A."))
            inputs += adapter.in_features if isinstance(adapter, nn.Linear) else 0
    return ranks // max(num_layers, 1), inputs // max(num_layers, 1)


def _head_is_trained(model: Any) -> bool:
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    head = base.get_output_embeddings()
    return head is not None and any(p.requires_grad for p in head.parameters())
