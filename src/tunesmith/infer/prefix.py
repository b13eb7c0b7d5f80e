"""Keys and values of prompts' beginnings, kept for the next request that begins the same way.

A prompt is read in pieces of a fixed number of tokens, cut at fixed positions. The keys and values of a whole piece
depend on the tokens up to its end and on nothing else (`model/ragged.py`), so taking them from here instead of reading
the tokens again changes no bit of an answer. Only pieces of prompts are kept, never those of answers: an answer's
tokens were computed one by one, which rounds differently. The pieces unused for longest go first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from tunesmith.model.ragged import SequenceCache


class PrefixCache:
    """Copies of pieces, by a hash over the model's name and all tokens up to the piece's end.

    Args:
        piece_tokens: tokens of a piece.
        max_bytes: memory that all copies may take; 0 keeps nothing.
    """

    def __init__(self, piece_tokens: int, max_bytes: int) -> None:
        self.num_bytes = 0
        self._piece_tokens, self._max_bytes = piece_tokens, max_bytes
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def keys(self, model: str, ids: Sequence[int]) -> list[bytes]:
        """The key of each whole piece of a prompt."""
        keys, key = [], model.encode()
        for start in range(0, len(ids) - self._piece_tokens + 1, self._piece_tokens):
            part = array("q", ids[start : start + self._piece_tokens])
            key = hashlib.sha256(key + part.tobytes()).digest()
            keys.append(key)
        return keys

    def restore(self, keys: Sequence[bytes], cache: SequenceCache, most: int) -> int:
        """Fill an empty cache with the pieces that are known; returns how many tokens that are, `most` at most."""
        num_tokens = 0
        for key in keys:
            if key not in self._kept or num_tokens + self._piece_tokens > most:
                break
            self._kept.move_to_end(key)
            cache.restore(self._kept[key], num_tokens)
            num_tokens += self._piece_tokens
        return num_tokens

    def keep(self, key: bytes, cache: SequenceCache, start: int) -> None:
        """Copy the piece of `cache` that begins at `start`."""
        if key in self._kept or self._max_bytes == 0:
            return
        block = cache.block(start, start + self._piece_tokens)
        self._kept[key] = block
        self.num_bytes += block.nbytes
        while self.num_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.num_bytes -= oldest.nbytes
