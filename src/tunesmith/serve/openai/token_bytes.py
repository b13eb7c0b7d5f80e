"""The bytes of single tokens, which log-probabilities are told with: a token may be a part of a character.

Three kinds of vocabulary write bytes in different ways: byte-level ones map each byte to a printable character
(GPT-2's table), sentencepiece ones write a space as U+2581 and single bytes as <0x0A>, added tokens stand for
themselves.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any

_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table turned round: printable Latin-1 characters stand for themselves, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(0x100 + number): byte for number, byte in enumerate(others)}


class TokenBytes:
    """Bytes and text of tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._table = _byte_of_character()
        self._special = frozenset(tokenizer.all_special_ids)

    @cached_property
    def _added(self) -> dict[int, str]:
        return {index: str(token) for index, token in self._tokenizer.added_tokens_decoder.items()}

    @cached_property
    def _is_byte_level(self) -> bool:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        decoder = json.loads(backend.to_str()).get("decoder") if backend is not None else None
        return "ByteLevel" in json.dumps(decoder)

    def is_special(self, token_id: int) -> bool:
        """Whether it is a token of the layout, which answers do not show."""
        return token_id in self._special

    def of(self, token_id: int) -> bytes:
        """The bytes of a token."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        if self._is_byte_level:
            return bytes(self._table.get(character, 0x3F) for character in token)
        single = _BYTE.match(token)
        return bytes([int(single[1], 16)]) if single else token.replace("\u2581", " ").encode()

    def text(self, token_id: int) -> str:
        """The text of a token; half characters as U+FFFD."""
        return self.of(token_id).decode("utf-8", "replace")
