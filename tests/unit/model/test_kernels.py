"""Each value of `flash_attn` is a kernel that really runs, or a sentence that says what runs in its place."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.model.attention import DOCUMENT_ATTENTION, document_attention
from tunesmith.model.kernels import PLAIN_ATTENTION, choose_attention


def _operators(attention: str) -> tuple[set[str], torch.Tensor]:
    """The operators of a forward pass over two documents, and its logits."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, attn_implementation=attention,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    ids = torch.arange(40)[None]
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        logits = model(input_ids=ids, document_bounds=((0, 25), (25, 40)), use_cache=False).logits
    return {event.key for event in seen.key_averages()}, logits


def test_disabled_trains_by_the_plain_formula_and_the_others_by_a_fused_kernel() -> None:
    fused, fused_logits = _operators(choose_attention(Config(), "llama", for_training=True).name)
    plain, plain_logits = _operators(choose_attention(Config(flash_attn="disabled"), "llama", for_training=True).name)
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert flash in fused
    assert flash not in plain
    assert "aten::_scaled_dot_product_attention_math" in plain
    torch.testing.assert_close(fused_logits, plain_logits, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("value", "package"), [("fa2", "flash-attn"), ("fa3", "flash-attn-3")])
def test_training_with_a_named_kernel_says_what_serves_it(value: str, package: str) -> None:
    choice = choose_attention(Config(flash_attn=value), "llama", for_training=True)
    assert choice.name == DOCUMENT_ATTENTION
    assert value in choice.note
    assert f"the package {package} is not used" in choice.note
    assert choose_attention(Config(), "llama", for_training=True).note == ""


@pytest.mark.parametrize(
    ("value", "name"), [("auto", "sdpa"), ("sdpa", "sdpa"), ("disabled", "eager"), ("fa2", "sdpa"), ("fa3", "sdpa")]
)
def test_inference_on_a_cpu(value: str, name: str) -> None:
    choice = choose_attention(Config(flash_attn=value), "llama", for_training=False, device="cpu")
    assert choice.name == name
    assert ("replaced by sdpa: it needs a GPU" in choice.note) == (value in ("fa2", "fa3"))


def test_a_model_with_soft_caps_answers_by_the_written_out_formula() -> None:
    assert choose_attention(Config(), "gemma2", for_training=False).name == "eager"
    assert choose_attention(Config(), "gemma3_text", for_training=False).name == "sdpa"
    assert choose_attention(Config(), "of_tomorrow", for_training=False).name == "sdpa"


def test_inference_on_a_gpu_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = choose_attention(Config(flash_attn="fa2"), "llama", for_training=False, device="cuda")
    assert "the package flash-attn is not installed" in missing.note
    installed = {"fa2": ("flash_attention_2", "flash-attn", lambda: True)}
    monkeypatch.setattr("tunesmith.model.kernels._PACKAGES", installed)
    found = choose_attention(Config(flash_attn="fa2"), "llama", for_training=False, device="cuda")
    assert (found.name, found.note) == ("flash_attention_2", "")


def test_shifted_attention_is_a_choice_for_training_only() -> None:
    config = Config(shift_attn=True, cutoff_len=400)
    assert choose_attention(config, "llama", for_training=True).name == "tunesmith_shifted_100"
    assert choose_attention(config, "llama", for_training=False).name == "sdpa"
    with pytest.raises(ConfigError, match="type gemma2"):
        choose_attention(config, "gemma2", for_training=True)
    assert PLAIN_ATTENTION != DOCUMENT_ATTENTION


@pytest.mark.parametrize("num_tokens", [10, 400])
def test_rotated_queries_may_be_wider_than_values(num_tokens: int) -> None:
    """As they are where fp32 weights compute in bf16; short and long documents take different ways."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, num_tokens, 8) for _ in range(3))
    bounds = ((0, num_tokens),)
    wide, _ = document_attention(torch.nn.Module(), query, key, value, None, document_bounds=bounds)
    mixed, _ = document_attention(torch.nn.Module(), query, key, value.bfloat16(), None, document_bounds=bounds)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), wide, atol=0.05, rtol=0.05)
