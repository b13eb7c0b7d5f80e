"""Text to tokens, the whole text at once, with special-token text that somebody typed kept as text.

Rendered text is tokenized as `apply_chat_template` does it: one call, no tokens added. So prefix spaces, merges
and tokens that swallow whitespace come out exactly as at inference. The one thing that call cannot do is to tell a
control token that the template wrote from the same characters typed by a user. `guard` therefore marks typed ones;
marked text is encoded by a twin of the tokenizer, in which the special tokens have other names. In the twin
the template's control tokens are spelled by those names, so whatever was typed is ordinary text there.
Building the twin costs about a second for a vocabulary of 150,000 and happens only when it is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tunesmith.errors import DataError, TemplateError

# Unicode noncharacters: reserved for use inside a program, never part of exchanged text.
_GUARD = "\ufdd0"
_NAME_OPEN, _NAME_CLOSE = "\ufdd1", "\ufdd2"


class Encoder:
    """Encodes rendered text.

    Args:
        tokenizer: a transformers tokenizer (anything callable in its way).
        control_texts: token texts that only the template may write, besides the tokenizer's special tokens.
        typed_texts: special-token texts that people may write, such as `<think>`; besides those that a user has added
            to the vocabulary, which the tokenizer's settings list under `typed_special_tokens`.
    """

    def __init__(self, tokenizer: Any, control_texts: Iterable[str] = (), typed_texts: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(tokenizer.all_special_tokens) | set(control_texts)
        added = getattr(tokenizer, "init_kwargs", {}).get("typed_special_tokens", ())
        names = sorted(special - set(typed_texts) - set(added) - {""}, key=lambda text: (-len(text), text))
        self._control_ids = {name: tokenizer.convert_tokens_to_ids(name) for name in names if self.is_token(name)}
        pattern = "|".join(re.escape(name) for name in self._control_ids)
        self._control = re.compile(pattern) if pattern else None
        self._twin: Any = None
        self._twin_ids: dict[int, int] = {}

    def is_token(self, text: str) -> bool:
        """Whether `text` is exactly one token of the vocabulary."""
        return len(self.encode(text)) == 1 and self.encode(text)[0] == self._tokenizer.convert_tokens_to_ids(text)

    def token_id(self, text: str) -> int | None:
        """The id of `text` when it is exactly one token, else None."""
        return self.encode(text)[0] if text and self.is_token(text) else None

    def control_tokens(self, text: str) -> list[str]:
        """The special tokens that the template wrote into `text`, in order (typed ones are guarded)."""
        return [match.group() for match in self._control.finditer(text)] if self._control else []

    def guard(self, text: str) -> str:
        """`text` with every typed special token marked as text. Returns most texts unchanged.

        Raises: DataError when the text holds the noncharacters that the marks are made of.
        """
        if _GUARD in text or _NAME_OPEN in text:
            raise DataError(
                "a text holds the Unicode noncharacter U+FDD0 or U+FDD1",
                why="they are not for exchange, and Tunesmith marks typed special tokens with them",
                fix="remove the character from the row",
            )
        if self._control is None:
            return text
        return self._control.sub(lambda match: match.group()[0] + _GUARD + match.group()[1:], text)

    @staticmethod
    def unguard(text: str) -> str:
        """`text` without marks, as a person reads it."""
        return text.replace(_GUARD, "")

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a whole rendered text, T of them.

        Raises: TemplateError when typed special tokens must be kept as text and the tokenizer is not a fast one.
        """
        if _GUARD in text:
            return self._encode_guarded(text)
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _encode_guarded(self, text: str) -> tuple[int, ...]:
        if self._twin is None:
            self._build_twin()
        assert self._control is not None  # a guard is only ever set on a control token
        renamed = self._control.sub(lambda match: self._twin_name(match.group()), text)
        ids = self._twin.encode(self.unguard(renamed), add_special_tokens=False).ids
        return tuple(self._twin_ids.get(token_id, token_id) for token_id in ids)

    def _twin_name(self, name: str) -> str:
        return f"{_NAME_OPEN}{self._control_ids[name]}{_NAME_CLOSE}"

    def _build_twin(self) -> None:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TemplateError(
                "a conversation contains the text of a special token, and this model has only a slow tokenizer",
                why="a slow tokenizer would turn typed text into a control token",
                fix="convert the tokenizer to tokenizer.json (`use_fast_tokenizer: true`), or remove such rows",
            )
        data = json.loads(backend.to_str())
        data.update(truncation=None, padding=None, post_processor=None)
        for token in data["added_tokens"]:
            if token["content"] in self._control_ids:
                token["content"] = self._twin_name(token["content"])
        self._rename_in_vocabulary(data["model"])
        self._twin = type(backend).from_str(json.dumps(data, ensure_ascii=False))
        # A token added beside the vocabulary may get another id in the twin than the original has.
        for name, token_id in self._control_ids.items():
            twin_id = self._twin.token_to_id(self._twin_name(name))
            if twin_id is not None and twin_id != token_id:
                self._twin_ids[twin_id] = token_id

    def _rename_in_vocabulary(self, model: dict[str, Any]) -> None:
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            for name in self._control_ids:
                if name in vocabulary:
                    vocabulary[self._twin_name(name)] = vocabulary.pop(name)
        else:  # Unigram: [text, score] pairs
            for entry in vocabulary:
                if entry[0] in self._control_ids:
                    entry[0] = self._twin_name(entry[0])
        if model.get("unk_token") in self._control_ids:
            model["unk_token"] = self._twin_name(model["unk_token"])
