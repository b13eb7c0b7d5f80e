"""Texts and token ids of the routes that know no messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.serve.openai.errors import refused

Given = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]


def token_lists(given: Given, tokenizer: Any, param: str) -> list[list[int]]:
    """One list of token ids per prompt: texts as the tokenizer reads them, ids as they are.

    Raises: ApiError for an id outside the vocabulary, and for an empty prompt.
    """
    if isinstance(given, str):
        prompts = [_ids_of_text(given, tokenizer)]
    elif isinstance(given[0], int):
        prompts = [[int(token) for token in given]]  # type: ignore[arg-type]
    else:
        prompts = [_ids_of_text(part, tokenizer) if isinstance(part, str) else list(part) for part in given]  # type: ignore[arg-type]
    for ids in prompts:
        _check(ids, len(tokenizer), param)
    return prompts


def _ids_of_text(text: str, tokenizer: Any) -> list[int]:
    ids = [int(token) for token in tokenizer(text, verbose=False)["input_ids"]]
    start = tokenizer.bos_token_id
    return ids[1:] if start is not None and ids[:2] == [start, start] else ids


def _check(ids: Sequence[int], vocabulary_size: int, param: str) -> None:
    if not ids:
        raise refused(param, f"'{param}' is empty: there is nothing to continue")
    if max(ids) >= vocabulary_size:
        raise refused(param, f"there is no token {max(ids)}; the vocabulary has {vocabulary_size} tokens")
