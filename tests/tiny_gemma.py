"""A second family, awkward on purpose: what an exporter that has only seen Llama gets wrong.

A Gemma 2 of 2 layers with tied embeddings, soft caps on attention and logits, a sliding window in every other layer, a
begin token that the tokenizer sets by itself, an end of turn that is not the end token, and two tokens added to the
vocabulary afterwards. Random weights, no network, the same bytes every time.
"""

from __future__ import annotations

from pathlib import Path

from tests.tiny import _CORPUS

GEMMA_JINJA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
ADDED = ("<tool>", "</tool>")
NUM_TOKENS = 384
END_OF_TURN = 5


def tiny_gemma_tokenizer(path: Path):
    """The tokenizer: `<bos>` before every text, two added tokens behind the vocabulary. Saved to `path`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS - len(ADDED), special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_CORPUS, trainer)
    backend.add_special_tokens(list(ADDED))
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=256,
    )
    tokenizer.chat_template = GEMMA_JINJA
    tokenizer.save_pretrained(str(path))
    return tokenizer


def tiny_gemma(path: Path | str, *, seed: int = 0) -> Path:
    """Write the model with its tokenizer to `path`; returns `path`."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM, GenerationConfig

    path = Path(path)
    tokenizer = tiny_gemma_tokenizer(path)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        max_position_embeddings=256,
        sliding_window=16,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=[config.eos_token_id, END_OF_TURN], pad_token_id=0
    )
    model.save_pretrained(path)
    return path
