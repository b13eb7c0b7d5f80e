"""Turn token ids into text one token at a time, without ever showing half a character.

Byte-level vocabularies spread a Chinese character or an emoji over several tokens; decoding each alone gives U+FFFD.
And some tokenizers drop a leading space when a token is decoded without its left neighbour. Both are solved by
decoding a short window that starts at an earlier character boundary, and showing only what the newest tokens add.
The cost per token does not grow with the length of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"


class IncrementalDetokenizer:
    """Feed ids with `add`, take the remaining text with `flush`; the parts joined equal decoding everything at once.

    Args:
        decode: ids -> text; special tokens are shown or skipped as it decides.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window_start = 0  # first id that is decoded along, for context
        self._shown_end = 0  # ids before this one have been shown

    def add(self, token_id: int) -> str:
        """The text that became readable with `token_id`; empty while a character is incomplete."""
        self._ids.append(token_id)
        text = self._pending()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        return self._show(text)

    def flush(self) -> str:
        """What is left at the end, with U+FFFD where the model broke off inside a character."""
        return self._show(self._pending())

    def _pending(self) -> str:
        shown = self._decode(self._ids[self._window_start : self._shown_end])
        return self._decode(self._ids[self._window_start :])[len(shown) :]

    def _show(self, text: str) -> str:
        self._window_start, self._shown_end = self._shown_end, len(self._ids)
        return text
