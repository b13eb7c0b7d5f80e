"""A tiny mixture of experts with the tokenizer of the other tiny models, built locally."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import NUM_TOKENS, tiny_tokenizer

NUM_EXPERTS, TOP_K = 4, 2


def tiny_mixtral(path: Path | str, seed: int = 0) -> Path:
    """Write a random Mixtral of 2 layers and 4 experts, of which a token uses 2, to `path`; returns `path`."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    path = Path(path)
    tokenizer = tiny_tokenizer(path)
    config = MixtralConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=TOP_K,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MixtralForCausalLM(config)
        model.model.embed_tokens.weight.data.add_(0.05)  # what all tokens share sends them to the first expert
        for layer in model.model.layers:
            layer.mlp.gate.weight.data[0].add_(0.05)
    model.save_pretrained(path)
    return path
