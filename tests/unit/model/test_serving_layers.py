"""Linear layers of a served model give their own numbers (PEFT's, where adapted), with each adapter and with none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from tests.tiny import tiny_adapter, tiny_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.model import serving_layers
from tunesmith.model.second_adapter import add_adapter
from tunesmith.model.serving_layers import serve_directly

IDS = torch.tensor([[5, 9, 300, 17, 44, 8]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_adapter_and_the_base_give_the_logits_of_peft(tmp_path, dtype: torch.dtype) -> None:
    folder = tiny_model(tmp_path / "base")
    first, second = tiny_adapter(tmp_path / "a", folder, seed=1), tiny_adapter(tmp_path / "b", folder, seed=2)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), str(first)).eval()
    add_adapter(model, second, "b")

    def logits() -> list[torch.Tensor]:
        found = []
        with torch.no_grad():
            for name in ("default", "b"):
                model.set_adapter(name)
                found.append(model(IDS).logits.float())
            with model.disable_adapter():
                found.append(model(IDS).logits.float())
        return found

    before = logits()
    assert serve_directly(model) > 0
    for ours, theirs in zip(logits(), before, strict=True):
        assert (ours - theirs).norm() <= (1e-5 if dtype == torch.float32 else 2e-2) * theirs.norm()
    assert not torch.allclose(before[0], before[1], atol=1e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_layers_with_more_than_two_matrices_stay_as_they_are(tmp_path, dtype: torch.dtype, tolerance: float) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "base"), dtype=dtype)
    dora = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)).eval()
    layers = [module for module in dora.modules() if isinstance(module, LoraLinear)]
    with torch.no_grad():
        before = dora(IDS).logits.float()
        assert serve_directly(dora) > 0  # the others are served directly
        assert (dora(IDS).logits.float() - before).norm() <= tolerance * before.norm()
    assert all("forward" not in vars(part) for layer in layers for part in layer.modules())


def test_layers_that_share_an_input_are_one_product_and_weights_are_held_once(tmp_path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "base"), dtype=torch.bfloat16).eval()
    num_linear = sum(type(module) is nn.Linear for module in model.modules())
    is_tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert serve_directly(model) == num_linear - is_tied
    attention = model.model.layers[0].self_attn
    products = []
    group = attention.q_proj.forward.__func__._group
    counted = group._product
    group._product = lambda x: products.append(x.shape) or counted(x)
    with torch.no_grad():
        first, again = torch.randn(1, 6, 64, dtype=torch.bfloat16), torch.randn(1, 6, 64, dtype=torch.bfloat16)
        q, k, v = attention.q_proj(first), attention.k_proj(first), attention.v_proj(first)
        assert len(products) == 1
        assert attention.k_proj(again).shape == k.shape  # another input is another product, whatever was asked before
        assert torch.equal(attention.v_proj(first), v)
        assert torch.equal(attention.q_proj(first), q)
    assert group._input is None or len(group._ready) < 3
    # where the weights were laid out anew the old ones are gone; where not, the layers look at the one matrix
    storages = {w.untyped_storage().data_ptr() for w in (attention.q_proj.weight, attention.v_proj.weight)}
    assert attention.q_proj.weight.numel() == 0 or len(storages) == 1


def test_a_bias_of_several_layers_stays_with_its_layer(tmp_path) -> None:
    config = AutoConfig.for_model(
        "qwen2",
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        vocab_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
        with torch.no_grad():
            for layer in model.model.layers:
                for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                    linear.bias.normal_()
            before = model(IDS).logits.float()
            assert serve_directly(model) > 0
            assert (model(IDS).logits.float() - before).norm() <= tolerance * before.norm()


def test_an_adapter_that_leaves_some_of_the_layers_alone(tmp_path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "base"))
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["k_proj", "up_proj"], init_lora_weights=False)).eval()
    with torch.no_grad():
        with model.disable_adapter():
            without = model(IDS).logits
        before = model(IDS).logits
        serve_directly(model)
        assert (model(IDS).logits - before).norm() <= 1e-5 * before.norm()
    assert (before - without).norm() > 1e-3 * before.norm()


def test_weights_of_a_kind_of_their_own_and_layers_with_hooks_are_left_alone(tmp_path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "base"), dtype=torch.bfloat16).eval()
    first, second = model.model.layers[0].mlp, model.model.layers[1].mlp
    quantize_(first, Int8WeightOnlyConfig())
    kind = type(first.up_proj.weight)
    assert kind is not nn.Parameter
    own = second.up_proj.forward
    second.up_proj.forward = lambda x: own(x)
    with torch.no_grad():
        before = model(IDS).logits.float()
        assert serve_directly(model) > 0
        assert (model(IDS).logits.float() - before).norm() <= 2e-2 * before.norm()
    assert type(first.up_proj.weight) is kind
    assert second.up_proj.weight.numel() > 0


@pytest.mark.parametrize("reads", [False, True])
def test_weights_that_something_else_looks_at_stay_where_they_are(tmp_path, reads: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "base"), dtype=torch.bfloat16).eval()
    mlp = model.model.layers[1].mlp
    if reads:
        mlp.forward = lambda x: F.linear(F.silu(F.linear(x, mlp.gate_proj.weight)), mlp.down_proj.weight)
    with torch.no_grad():
        before = model(IDS).logits.float()
        serve_directly(model)
        assert (model(IDS).logits.float() - before).norm() <= 2e-2 * before.norm()
    assert not reads or mlp.gate_proj.weight.numel() > 0


def test_a_packing_that_multiplies_wrongly_is_not_used(monkeypatch) -> None:
    weight_KD = torch.randn(64, 32, dtype=torch.bfloat16)
    right = serving_layers._packed(weight_KD, None)
    if right is None:
        pytest.skip("this processor has no bfloat16 products of its own")
    rows_TD = torch.randn(16, 32, dtype=torch.bfloat16)
    assert torch.allclose(right(rows_TD).float(), F.linear(rows_TD, weight_KD).float(), rtol=2e-2, atol=1e-2)
    order = torch.ops.mkldnn._reorder_linear_weight
    wrong = SimpleNamespace(
        _is_mkldnn_bf16_supported=lambda: True,
        _reorder_linear_weight=lambda weight, rows: order(weight.flip(0).contiguous(), rows),
        _linear_pointwise=torch.ops.mkldnn._linear_pointwise,
    )
    monkeypatch.setattr(serving_layers.torch.ops, "mkldnn", wrong)
    assert serving_layers._packed(weight_KD, None) is None
