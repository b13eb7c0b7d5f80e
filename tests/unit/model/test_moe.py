"""Mixtures of experts are scored rightly over flat rows, and their routers can be read, checkpointed or not."""

from __future__ import annotations

import pytest
import torch
from tests.unit.model.test_flat_rows import SMALL
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.attention import DOCUMENT_ATTENTION, register_document_attention
from tunesmith.model.moe import RouterTap, experts_per_token

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, PreTrainedConfig] = {
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "qwen2-moe": Qwen2MoeConfig(**SMALL, **EXPERTS, moe_intermediate_size=16, shared_expert_intermediate_size=16),
    "qwen3-moe": Qwen3MoeConfig(**SMALL, **EXPERTS, moe_intermediate_size=16, head_dim=8),
    "olmoe": OlmoeConfig(**SMALL, **EXPERTS),
}


def _model(family: str, attention: str):
    register_document_attention()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation=attention).eval()


IDS = torch.arange(3, 19)[None]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_equal_transformers_own_attention_on_each_alone(family: str) -> None:
    model, own = _model(family, DOCUMENT_ATTENTION), _model(family, "eager")
    positions = torch.cat([torch.arange(9), torch.arange(7)])[None]
    with torch.no_grad():
        packed = model(input_ids=IDS, position_ids=positions, document_bounds=((0, 9), (9, 16)), use_cache=False).logits
        alone = torch.cat([own(input_ids=part, use_cache=False).logits for part in IDS.split((9, 7), 1)], 1)
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_tap_reads_what_transformers_computes_its_loss_from(family: str, checkpointed: bool) -> None:
    model = _model(family, DOCUMENT_ATTENTION).train()
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tap = RouterTap(model, 0.1)
    tap.open(with_gradients=True)
    call = {"input_ids": IDS, "document_bounds": ((0, 16),), "use_cache": False}
    theirs = model(**call, output_router_logits=True)
    expected = load_balancing_loss_func(theirs.router_logits, 4, 2)
    load = tap.count()
    model.get_decoder()(**call)
    actual = tap.loss(load)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    gate = next(p for name, p in model.named_parameters() if name.endswith("gate.weight"))
    (mine,), (reference,) = torch.autograd.grad(actual, gate), torch.autograd.grad(expected, gate)
    assert mine.any()
    torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-8)


def test_a_closed_tap_keeps_nothing() -> None:
    model = _model("mixtral", DOCUMENT_ATTENTION)
    tap = RouterTap(model, 0.1)
    tap.open(with_gradients=True)
    tap.close()
    model(input_ids=IDS, document_bounds=((0, 16),), use_cache=False)
    with pytest.raises(ModelError, match="did not hand out"):
        tap.count()


def test_a_reference_pass_within_a_step_is_not_counted() -> None:
    model = _model("mixtral", DOCUMENT_ATTENTION)
    tap = RouterTap(model, 0.1)
    tap.open(with_gradients=True)
    call = {"input_ids": IDS, "document_bounds": ((0, 16),), "use_cache": False}
    model(**call)
    with torch.no_grad():
        model(**call)
    assert tap.count().num_tokens == 16 * SMALL["num_hidden_layers"]


def test_models_without_this_loss_are_named() -> None:
    with pytest.raises(ConfigError, match="type llama") as caught:
        experts_per_token(LlamaConfig(**SMALL))
    assert "no experts" in caught.value.why
    with pytest.raises(ConfigError, match="type deepseek_v3") as caught:
        experts_per_token(DeepseekV3Config())
    assert "another way" in caught.value.why
