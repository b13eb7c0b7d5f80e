"""The training methods: the settings of each, on which the tests of whole runs go over all of them."""

from __future__ import annotations

from typing import Any

MANY_TOKENS = ",".join(f"<t{number}>" for number in range(70))
"""More than the spare rows of the tiny model."""

METHODS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"pissa_init": True, "pissa_iter": -1},
    "pissa-fast": {"pissa_init": True},
    "pissa-rslora-patterns": {"pissa_init": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "loftq": {"loftq_init": True},
    "loftq-8": {"loftq_init": True, "loftq_bits": 8, "loftq_iter": 2},
    "rank-pattern": {"rank_pattern": {"q_proj": 8}},
    "alpha-pattern": {"alpha_pattern": {"0.mlp.up_proj": 32}},
    "layers": {"lora_layers": "-1"},
    "llama-pro": {"use_llama_pro": True, "freeze_trainable_layers": 1},
    "additional-target": {"additional_target": "embed_tokens"},
    "both-embeddings": {"additional_target": "embed_tokens,lm_head"},
    "oft": {"finetuning_type": "oft", "oft_block_size": 16},
    "tokens": {"add_tokens": "who are,assistant for"},
    "special-tokens": {"add_special_tokens": MANY_TOKENS},
    "tokens-and-embeddings": {"add_special_tokens": "<a>", "additional_target": "embed_tokens,lm_head"},
}
"""Those that make an adapter."""

WHOLE_MODELS: dict[str, dict[str, Any]] = {
    "freeze-first": {"finetuning_type": "freeze", "freeze_trainable_layers": -1},
    "freeze-pro": {"finetuning_type": "freeze", "use_llama_pro": True, "freeze_trainable_layers": 1},
    "freeze-tokens": {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "add_special_tokens": MANY_TOKENS},
    "full-tokens": {"finetuning_type": "full", "add_special_tokens": MANY_TOKENS},
}
"""Those that change the model itself."""
