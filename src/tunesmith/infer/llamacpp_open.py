"""Open a GGUF file for talking: the file, its tokenizer, the renderer, the engine, checked against each other.

The tokenizer is the one beside the file, which an export writes; a file that came alone has its own unpacked once
(`model/gguf_base.py`). It must give the tokens that llama.cpp gives, else prompts would not be what they seem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.config.resolve import Resolved
from tunesmith.errors import ModelError, TemplateError
from tunesmith.infer.llamacpp_native import NativeModel
from tunesmith.infer.locate import Located
from tunesmith.infer.session import Session
from tunesmith.model.gguf_base import gguf_file_of, unpacked
from tunesmith.render import load_renderer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_TEXTS = ("Hello, world! 1234 it's", "  你好，世界 🚀\n\n\tdef f(x):", "Привет 東京 ²³")


def open_llamacpp(resolved: Resolved, say: Callable[[str], None]) -> Session:
    """Load the GGUF file that `resolved` names, with a GGUF adapter where one is named.

    Raises:
        ModelError: there is no such file, it does not load, or an adapter does not fit it.
        TemplateError: no template, or one without an end.
    """
    import torch

    from tunesmith.infer.llamacpp import LlamaCppEngine

    config = resolved.config
    file = _gguf_file(str(config.model_name_or_path), "model_name_or_path", "gguf")
    adapters = [_gguf_file(name, "adapter_name_or_path", "gguf_adapter") for name in config.adapter_name_or_path]
    if len(adapters) > 1:
        raise ModelError("llama.cpp takes one adapter here", fix="Merge them: export_format: gguf")
    located = Located(str(file), tuple(map(str, adapters)), None, ())
    tokenizer, is_beside = load_file_tokenizer(file, config.cache_dir)
    renderer = load_renderer(config, tokenizer)
    if not renderer.stop_ids:
        raise TemplateError(f"template {renderer.template_name} names no token that ends an answer")
    say(f"talking to: {located.describe()} (llama.cpp)")
    native = NativeModel(
        file,
        num_slots=config.llamacpp_slots,
        max_length=config.llamacpp_maxlen,
        num_threads=torch.get_num_threads(),
    )
    notes = [*_length_note(native, config.llamacpp_maxlen), *renderer.notes]
    try:
        notes += check_same_tokens(native, tokenizer, file, is_beside=is_beside)
        models: dict[str, Path | None] = {adapter.stem: adapter for adapter in adapters}
        for adapter in adapters:
            native.use_adapter(adapter)
    except ModelError:
        native.close()
        raise
    engine = LlamaCppEngine(native, config.llamacpp_slots, tokenizer, {**models, file.stem: None})
    return Session(engine, renderer, replace(config, model_name_or_path=str(file)), located, tuple(notes))


def load_file_tokenizer(file: Path, cache_dir: str | None) -> tuple[Any, bool]:
    """The tokenizer beside a GGUF file, or the one inside it; and whether it was beside."""
    from tunesmith.model.plain import load_plain_tokenizer

    is_beside = all((file.parent / name).is_file() for name in _TOKENIZER_FILES)
    return load_plain_tokenizer(file.parent if is_beside else unpacked(file, cache_dir)), is_beside


def check_same_tokens(native: NativeModel, tokenizer: Any, file: Path, *, is_beside: bool) -> list[str]:
    """Whether the tokenizer gives the tokens that llama.cpp gives; a note where one from inside the file does not.

    transformers reads the vocabulary from a GGUF file, but for some families not the rule that splits texts.

    Raises: ModelError when the tokenizer beside the file is another one, or a special token is.
    """
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for text in (*special[:64], *_TEXTS):
        ours = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        theirs = native.tokenize(text)
        if ours == theirs:
            continue
        difference = f"{text!r} has the tokens {list(ours)[:8]} here and {list(theirs)[:8]} in llama.cpp"
        if not is_beside and text not in special:
            return [f"the tokenizer read from {file.name} splits some texts in another way: {difference}"]
        raise ModelError(
            f"the tokenizer {'beside' if is_beside else 'inside'} {file.name} is not that of the file",
            why=difference,
            fix="Export again, or put the tokenizer of the same model beside the file.",
        )
    return []


def _gguf_file(name: str, key: str, export_format: str) -> Path:
    path = Path(name).expanduser()
    file = gguf_file_of(path)
    if file is None or not file.is_file():
        raise ModelError(
            f"infer_backend llamacpp reads GGUF files, and {path} {'holds none' if path.is_dir() else 'is not there'}",
            where=key,
            fix=f"write one: tunesmith export FILE export_format={export_format} export_dir=FOLDER",
        )
    return file


def _length_note(native: NativeModel, asked: int) -> list[str]:
    """What the user should know about the context; nothing where it is all that the model has."""
    if native.context_length == native.trained_length:
        return []
    return [
        f"llama.cpp keeps {native.context_length} tokens per request, the model was trained with "
        f"{native.trained_length} (llamacpp_maxlen: {asked}; 0 takes all)"
    ]
