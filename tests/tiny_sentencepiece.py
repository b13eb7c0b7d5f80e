"""A tiny tokenizer of Llama 2's and Gemma's kind: BPE over characters, spaces as U+2581, bytes for what is unknown."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny import _CORPUS, CHATML_JINJA

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")


def tiny_sentencepiece(path: Path | str, vocab: int = 512):
    """Ids 0 to 4 are `SPECIAL_TOKENS`, then the 256 bytes. No space is put in front, as with Gemma. Saved to `path`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[*SPECIAL_TOKENS, *byte_tokens], show_progress=False)
    backend.train_from_iterator(_CORPUS, trainer)
    settings = json.loads(backend.to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(settings)),
        bos_token="<s>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        pad_token="</s>",
        model_max_length=512,
    )
    tokenizer.chat_template = CHATML_JINJA
    tokenizer.save_pretrained(str(path))
    return tokenizer
