"""The noise has transformers' size, depends on a document's own length only, and is repeated by the seed."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.neftune import neftune_post_forward_hook

from tunesmith.errors import ModelError
from tunesmith.model.attention import DOCUMENT_ATTENTION, register_document_attention
from tunesmith.model.neftune import EmbeddingNoise, noise_limits

WIDTH, ALPHA = 16, 5.0


def _model() -> LlamaForCausalLM:
    register_document_attention()
    config = LlamaConfig(
        vocab_size=50, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, attn_implementation=DOCUMENT_ATTENTION,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def _noise(model: LlamaForCausalLM, lengths: list[int], seed: int = 3) -> torch.Tensor:
    """What the hook adds to a row of documents, (T, D)."""
    seen: list[torch.Tensor] = []
    handle = model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    total = sum(lengths)
    ends = list(accumulate(lengths, initial=0))
    ids = torch.arange(total)[None] % 50
    torch.manual_seed(seed)
    model.model(input_ids=ids, document_bounds=tuple(pairwise(ends)), use_cache=False)
    handle.remove()
    return (seen[0] - model.model.embed_tokens.weight[ids])[0].detach()


def test_noise_is_uniform_within_alpha_over_the_root_of_length_times_width() -> None:
    model = _model().train()
    EmbeddingNoise(model, ALPHA)
    noise = _noise(model, [1000])
    limit = ALPHA / math.sqrt(1000 * WIDTH)
    assert 0.99 * limit < float(noise.abs().max()) <= limit * 1.0001
    # 16,000 uniform draws: standard error of the deviation is about 0.4 %
    assert float(noise.std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert abs(float(noise.mean())) < 0.03 * limit


def test_one_document_has_the_noise_that_transformers_gives_it() -> None:
    module = torch.nn.Embedding(50, WIDTH).train()
    module.neftune_noise_alpha = ALPHA  # type: ignore[assignment]
    theirs = neftune_post_forward_hook(module, None, torch.zeros(1, 40, WIDTH))
    limit = float(noise_limits([(0, 40)], ALPHA, WIDTH)[0])
    assert 0.98 * limit < float(theirs.abs().max()) <= limit * 1.0001


def test_packing_does_not_change_the_size_of_a_documents_noise() -> None:
    limits = noise_limits([(0, 9), (9, 109)], ALPHA, WIDTH)
    assert torch.equal(limits[:9], noise_limits([(0, 9)], ALPHA, WIDTH))
    assert torch.equal(limits[9:], noise_limits([(0, 100)], ALPHA, WIDTH))
    model = _model().train()
    EmbeddingNoise(model, ALPHA)
    noise = _noise(model, [9, 100])
    assert float(noise[:9].abs().max()) <= ALPHA / math.sqrt(9 * WIDTH) * 1.0001
    assert float(noise[9:].abs().max()) <= ALPHA / math.sqrt(100 * WIDTH) * 1.0001
    assert float(noise[:9].abs().max()) > ALPHA / math.sqrt(100 * WIDTH)


def test_a_branch_is_as_long_as_its_sequence_and_a_prefix_as_the_longest() -> None:
    limits = noise_limits([(0, 10, 14, 20)], ALPHA, WIDTH)
    lengths = (ALPHA / limits) ** 2 / WIDTH
    assert lengths.round().tolist() == [16] * 10 + [14] * 4 + [16] * 6


def test_the_seed_repeats_the_noise_and_evaluation_has_none() -> None:
    model = _model().train()
    hooks = EmbeddingNoise(model, ALPHA)
    first = _noise(model, [20, 5])
    assert torch.equal(first, _noise(model, [20, 5]))
    assert not torch.equal(first, _noise(model, [20, 5], seed=4))
    assert not _noise(model.eval(), [20, 5]).any()
    hooks.remove()
    assert not _noise(model.train(), [20, 5]).any()


def test_a_call_without_borders_is_refused() -> None:
    model = _model().train()
    EmbeddingNoise(model, ALPHA)
    with pytest.raises(ModelError, match="without the borders"):
        model.model(input_ids=torch.zeros(1, 3, dtype=torch.long), use_cache=False)


def test_a_peft_model_has_noise_too(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    register_document_attention()
    base = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path), attn_implementation=DOCUMENT_ATTENTION)
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])).train()
    EmbeddingNoise(model, ALPHA)
    torch.manual_seed(0)
    ids, decoder = torch.zeros(1, 4, dtype=torch.long), model.get_base_model().get_decoder()
    outputs = [decoder(input_ids=ids, document_bounds=((0, 4),), use_cache=False).last_hidden_state for _ in range(2)]
    assert not torch.equal(*outputs)
