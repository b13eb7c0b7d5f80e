"""The estimate of activations is what autograd keeps, measured here; checkpointing is decided by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.config.resolve import Resolved, resolve
from tunesmith.model.attention import DOCUMENT_ATTENTION, register_document_attention
from tunesmith.model.parameters import upcast_norms
from tunesmith.train.memory import SCATTERED_SHARE, MemoryNeed, StepShape, activation_bytes, memory_need, shape_of
from tunesmith.train.settings import decide_checkpointing

NUM_LAYERS, TOKENS = 4, 192
BF16, FP32 = torch.bfloat16, torch.float32
SIZES = [(64, 160, 4, 2), (128, 128, 8, 8), (96, 400, 6, 3)]
"""Hidden size, MLP width, heads, key heads."""


def _model(sizes: tuple[int, int, int, int], method: str, stored: torch.dtype, num_layers: int, **lora: Any) -> Any:
    register_document_attention()
    hidden, mlp, heads, key_heads = sizes
    config = LlamaConfig(
        vocab_size=97, hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=num_layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, attn_implementation=DOCUMENT_ATTENTION,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).to(stored)
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", **lora))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model.train()


def _kept_bytes(model: Any, compute: torch.dtype, num_tokens: int) -> int:
    """Bytes of all tensors that autograd keeps of a forward pass of the decoder, parameters not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(num_tokens)[None] % 97
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=compute, enabled=compute != FP32),
    ):
        hidden = base.get_decoder()(input_ids=ids, document_bounds=((0, num_tokens),), use_cache=False)
    assert hidden.last_hidden_state.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _layer_bytes(make: Any, compute: torch.dtype) -> float:
    """Of one more layer, per token: casts of weights, embedding and final norm fall out of the differences."""
    two, three = make(2), make(3)
    grown = [_kept_bytes(three, compute, tokens) - _kept_bytes(two, compute, tokens) for tokens in (TOKENS, 2 * TOKENS)]
    return (grown[1] - grown[0]) / TOKENS


def _estimated(model: Any, compute: torch.dtype, num_tokens: int) -> float:
    """The estimate's activations of one layer, per token, without what the C library adds."""
    need = memory_need(
        model, optimizer="adamw_torch", row_tokens=num_tokens, longest_text=num_tokens, compute_dtype=compute,
        device=torch.device("cpu"),
    )  # fmt: skip
    return need.activations / (1 + SCATTERED_SHARE) / (shape_of(model).num_layers + 1) / num_tokens


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    ("method", "stored", "compute"),
    [("lora", FP32, FP32), ("lora", BF16, BF16), ("full", FP32, FP32), ("full", FP32, BF16), ("full", BF16, BF16)],
)
def test_the_formula_is_what_autograd_keeps(
    sizes: tuple[int, int, int, int], method: str, stored: torch.dtype, compute: torch.dtype
) -> None:
    measured = _layer_bytes(lambda layers: _prepared(_model(sizes, method, stored, layers), compute), compute)
    # 2 %: the tensors are counted exactly; rounding to whole bytes per token is all that remains
    assert _estimated(_model(sizes, method, stored, 2), compute, TOKENS) == pytest.approx(measured, rel=0.02)


def _prepared(model: Any, compute: torch.dtype) -> Any:
    from tunesmith.model.adapters import leave_inputs_to_autocast

    if compute != FP32:
        leave_inputs_to_autocast(model)
    return model


def test_norms_in_fp32_and_dropout_are_counted() -> None:
    plain = _estimated(_model(SIZES[0], "lora", BF16, 2), BF16, TOKENS)
    for change in ("norms", "dropout"):

        def make(layers: int, change: str = change) -> Any:
            lora = {"lora_dropout": 0.1} if change == "dropout" else {}
            model = _prepared(_model(SIZES[0], "lora", BF16, layers, **lora), BF16)
            if change == "norms":
                upcast_norms(model)
            return model

        measured = _layer_bytes(make, BF16)
        assert measured > 1.1 * plain
        # dropout keeps a number and its noise instead of some inputs: 5 % apart in this model
        assert _estimated(make(2), BF16, TOKENS) == pytest.approx(measured, rel=0.06)


def _need(**changes: Any) -> MemoryNeed:
    model = _model(SIZES[0], "full", FP32, NUM_LAYERS)
    settings = {"optimizer": "adamw_torch", "row_tokens": 512, "longest_text": 512, "compute_dtype": FP32}
    return memory_need(model, **{**settings, "device": torch.device("cpu"), **changes})


def test_gradients_states_and_weights_are_the_bytes_of_their_tensors() -> None:
    model = _model(SIZES[0], "full", FP32, NUM_LAYERS)
    size = 4 * sum(p.numel() for p in model.parameters())
    need = _need()
    assert (need.gradients, need.states, need.weights, need.casts) == (size, 2 * size, 0, 0)
    assert _need(optimizer="sgd").states == 0
    assert _need(optimizer="adagrad").states == size
    assert _need(device=torch.device("cuda")).weights == size
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert _need(compute_dtype=BF16).casts == 2 * matrices


def test_more_tokens_a_cpu_and_the_plain_formula_take_more() -> None:
    assert _need(row_tokens=1024).activations == 2 * _need().activations
    assert _need().activations > _need(device=torch.device("cuda")).activations
    grown = _need(plain_formula=True).activations - _need().activations
    assert grown == pytest.approx((1 + SCATTERED_SHARE) * (NUM_LAYERS + 1) * 8 * 512 * 512 * 4, rel=1e-3)


def test_checkpointing_keeps_the_layers_inputs() -> None:
    model = _model(SIZES[0], "full", FP32, NUM_LAYERS)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    deeper = _model(SIZES[0], "full", FP32, NUM_LAYERS + 1)
    deeper.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    step = StepShape(TOKENS, TOKENS, 4, 4, norms_trained=True)
    estimated = activation_bytes(shape_of(deeper), step)[1] - activation_bytes(shape_of(model), step)[1]
    measured = _kept_bytes(deeper, FP32, TOKENS) - _kept_bytes(model, FP32, TOKENS)
    assert measured == estimated == TOKENS * 64 * 4


SMALL = MemoryNeed(weights=0, gradients=10, states=20, casts=0, activations=400, kept=100, head=30)
"""460 without checkpointing, 160 with it."""


def _resolved(**settings: Any) -> Resolved:
    given = [f"{key}={str(value).lower()}" for key, value in settings.items()]
    return resolve(["model_name_or_path=m", "output_dir=o", "dataset=d", *given], verb="train")


@pytest.mark.parametrize(("free", "is_on"), [(10_000, False), (576, False), (574, True), (200, True), (None, True)])
def test_checkpointing_is_on_where_a_step_would_fill_four_fifths_of_the_memory(free: int | None, is_on: bool) -> None:
    resolved, lines = decide_checkpointing(_resolved(), SMALL, free)
    assert resolved.config.gradient_checkpointing is is_on
    assert lines[0].endswith(f"gradient checkpointing is {'on' if is_on else 'off'}")
    assert resolved.origins["gradient_checkpointing"].why


@pytest.mark.parametrize(
    ("settings", "is_on"),
    [
        ({"gradient_checkpointing": True}, True),
        ({"gradient_checkpointing": False}, False),
        ({"disable_gradient_checkpointing": True}, False),
        ({"use_unsloth_gc": True}, True),
    ],
)
def test_the_keys_decide_whatever_the_memory(settings: dict[str, Any], is_on: bool) -> None:
    for free in (10_000, 100, None):
        resolved, _ = decide_checkpointing(_resolved(**settings), SMALL, free)
        assert resolved.config.gradient_checkpointing is is_on


def test_ranks_on_a_cpu_share_its_memory() -> None:
    assert decide_checkpointing(_resolved(), SMALL, 1000)[0].config.gradient_checkpointing is False
    assert decide_checkpointing(_resolved(), SMALL, 1000, num_ranks=2)[0].config.gradient_checkpointing is True


def test_a_step_that_does_not_fit_even_so_is_said() -> None:
    _, lines = decide_checkpointing(_resolved(), SMALL, 150)
    assert any("may not fit" in line and "micro_batch_tokens" in line for line in lines)
    _, lines = decide_checkpointing(_resolved(), SMALL, 1000)
    assert len(lines) == 1
    assert "0.00 GB of 0.00 GB free" in lines[0]
