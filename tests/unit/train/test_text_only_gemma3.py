"""A template made for a multimodal family trains its text-only sibling: `gemma3` on a text-only Gemma 3."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.tiny import tiny_tokenizer
from tests.training import history, run_training, weights, write_project
from transformers import Gemma3ForCausalLM, Gemma3TextConfig


def _text_only_gemma3(folder: Path) -> None:
    tokenizer = tiny_tokenizer(vocab=900)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]})
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = "<bos>", "<eos>", None
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        max_position_embeddings=256,
        eos_token_id=tokenizer.convert_tokens_to_ids("<end_of_turn>"),
        pad_token_id=0,
        bos_token_id=tokenizer.bos_token_id,
    )
    Gemma3ForCausalLM(config).save_pretrained(str(folder))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(str(folder))


def test_the_gemma3_template_trains_a_text_only_gemma3(tmp_path: Path) -> None:
    project = write_project(tmp_path, num_rows=12)
    for file in (project / "model").iterdir():
        file.unlink()
    _text_only_gemma3(project / "model")
    run = run_training(project, template="gemma3", max_steps=30, finetuning_type="full", learning_rate=1e-2)
    losses = history(run, "loss")
    assert losses[-1] < 0.8 * losses[0]
    assert weights(run)["model.embed_tokens.weight"].shape == (1024, 32)
