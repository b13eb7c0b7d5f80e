"""The text of single tokens, for previews that colour each one.

A token of a byte-level vocabulary may hold part of a character only, and a sentencepiece vocabulary writes the space
before a word into the word. So a token's text is what it adds to the text of the tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_MAX_TOKENS_PER_CHARACTER = 8
"""A UTF-8 character has at most 4 bytes; an emoji joined of several may leave its pieces open a little longer."""
_NUM_LEFT_CHARACTERS = 4
"""Left context that decides whether a leading space is shown. It begins where a character begins: sentencepiece's byte
tokens decode run by run, and a run with half a character in it is lost whole."""


def token_texts(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """One text per token of `ids`; joined they are the decoded text.

    A character split over several tokens stands at the first; the rest are "".
    """
    texts: list[str] = []
    starts = [0]
    while starts[-1] < len(ids):
        start = starts[-1]
        end = _whole_character(ids, start, decode)
        texts.append(_added(ids[starts[-_NUM_LEFT_CHARACTERS:][0] : start], ids[start:end], decode))
        texts.extend([""] * (end - start - 1))
        starts.append(end)
    return texts


def _whole_character(ids: Sequence[int], start: int, decode: Callable[[Sequence[int]], str]) -> int:
    """The end of the shortest run from `start` that is valid text; one token when none is."""
    for end in range(start + 1, min(start + _MAX_TOKENS_PER_CHARACTER, len(ids)) + 1):
        if _REPLACEMENT not in decode(ids[start:end]):
            return end
    return start + 1


def _added(left: Sequence[int], ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> str:
    before, after = decode(left), decode([*left, *ids])
    return after[len(before) :] if after.startswith(before) else decode(ids)
