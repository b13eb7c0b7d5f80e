"""Tiny models and tokenizers, built locally in milliseconds: what the tests run on.

`tiny_model(folder)` writes a complete Hugging Face folder: a Llama of 2 layers and hidden size 64 with random weights,
a byte-level BPE tokenizer with ChatML special tokens, its chat template and generation settings. No network.
The same arguments give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

CHATML_JINJA = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NUM_TOKENS = 512
_CORPUS = (
    "Who are you? I am a small assistant. What can you do for me today? I can answer questions and write text.",
    "你是谁？我是一个小助手，可以回答问题，也可以写文章。请告诉我今天的天气怎么样？",
    "The quick brown fox jumps over the lazy dog. Tell me your name, please. My name is Ada, made by the team.",
    "system user assistant tool\n1 + 2 = 3; 10 * 20 = 200. Yes, no, maybe. Hello! Goodbye!",
)


def tiny_tokenizer(path: Path | str | None = None, vocab: int = NUM_TOKENS):
    """A ChatML tokenizer of at most `vocab` tokens; every byte has a token, so any text survives a round trip.

    Ids 0, 1, 2 are <|endoftext|> (padding), <|im_start|>, <|im_end|> (end). Saved to `path` when given.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=512
    )
    tokenizer.chat_template = CHATML_JINJA
    if path is not None:
        tokenizer.save_pretrained(str(path))
    return tokenizer


def tiny_model(
    path: Path | str,
    vocab: int = NUM_TOKENS,
    seed: int = 0,
    *,
    tie_word_embeddings: bool = False,
    num_layers: int = 2,
    dtype: str = "float32",
) -> Path:
    """Write a random Llama with its tokenizer to `path`; returns `path`."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    path = Path(path)
    tokenizer = tiny_tokenizer(path, vocab)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=tie_word_embeddings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    model.save_pretrained(path)
    return path


def tiny_adapter(path: Path | str, base: Path | str, *, seed: int = 1, rank: int = 4, scale: float = 0.2) -> Path:
    """Write a LoRA adapter on all linear layers of `base` to `path`, with a real effect (`scale` 0: none at all)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base_model = AutoModelForCausalLM.from_pretrained(str(base))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(base_model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=scale) if scale else torch.nn.init.zeros_(parameter)
    model.save_pretrained(str(path))
    return Path(path)
