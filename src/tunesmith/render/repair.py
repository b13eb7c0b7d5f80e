"""Mends a tokenizer whose end or padding token does not fit the template, and says so.

Published tokenizers name a wrong end token (base models tuned with a chat layout, conversions), or no padding token.
Nothing is ever added to the vocabulary here: a template whose tokens are missing does not fit the model.
"""

from __future__ import annotations

from typing import Any

from tunesmith.errors import TemplateError
from tunesmith.render.encode import Encoder

_PAD_CANDIDATES = ("<|finetune_right_pad_id|>", "<pad>", "<|pad|>", "<｜▁pad▁｜>", "[PAD]", "<|endoftext|>", "<unk>")
"""Tokens that pad, best first, where a vocabulary has them and its tokenizer names none."""


def check_required_tokens(name: str, required: tuple[str, ...], encoder: Encoder) -> None:
    """Raises: TemplateError naming the tokens of template `name` that the vocabulary does not have."""
    missing = [text for text in required if not encoder.is_token(text)]
    if missing:
        listed = ", ".join(missing)
        raise TemplateError(
            f"template '{name}' does not fit the model: its vocabulary has no token {listed}",
            where="template",
            why="written as several ordinary tokens, they would not mark a turn as the model learned it, "
            "and generation could not stop at them",
            fix="choose the template of the model's own family (`tunesmith template list`), or leave `template` out to "
            "use the model's own",
        )


def repair_tokenizer(tokenizer: Any, encoder: Encoder, end_text: str, *, end_is_eos: bool) -> list[str]:
    """Set the end and padding token where they are wrong or missing; returns what was done, in words.

    Args:
        tokenizer: changed in place.
        encoder: the tokenizer's encoder.
        end_text: the token that ends an answer, empty when there is none.
        end_is_eos: False where the end is also the beginning of the next turn, so that it must not be named as the end.
    """
    notes = []
    eos = tokenizer.eos_token
    if end_is_eos and encoder.is_token(end_text) and eos != end_text:
        tokenizer.eos_token = end_text
        was = f"named {eos} as its end token" if eos else "named no end token"
        notes.append(f"the tokenizer {was}; the template ends answers with {end_text}, so that is the end token now")
    if tokenizer.pad_token is None:
        found = [text for text in (*_PAD_CANDIDATES, end_text, tokenizer.eos_token or "") if encoder.is_token(text)]
        if found:
            tokenizer.pad_token = found[0]
            notes.append(f"the tokenizer named no padding token; {found[0]} is used (padding is never trained)")
    return notes
