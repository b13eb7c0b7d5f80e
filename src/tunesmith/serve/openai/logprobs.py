"""Log-probabilities of the tokens that a client sees, in the shapes of both routes.

A token is told once its text is shown: while a stop text could still begin, or a character is half there, it is kept
back with its text, and what a stop text swallows is never told. The tokens cover the whole text that the model wrote:
a thought or a call as well, which the answer shows apart.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.infer.engine import SamplingParams, StreamPiece
from tunesmith.serve.openai.token_bytes import TokenBytes

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot write."""


@dataclass
class ShownTokens:
    """Decides when the token of a piece counts as shown."""

    token_bytes: TokenBytes
    params: SamplingParams
    _kept: deque[tuple[int, StreamPiece]] = field(default_factory=deque)
    _num_bytes: int = 0
    _num_shown: int = 0

    def add(self, piece: StreamPiece) -> list[StreamPiece]:
        """The tokens that `piece` has made visible, in order."""
        is_end = piece.token_id in self.params.stop_ids and piece.finish_reason == "stop"
        is_hidden = (
            self.params.skip_special_tokens
            and piece.token_id not in self.params.visible_ids
            and self.token_bytes.is_special(piece.token_id)
        )
        if not is_end and not is_hidden:
            self._kept.append((self._num_bytes, piece))
            self._num_bytes += len(self.token_bytes.of(piece.token_id))
        self._num_shown += len(piece.text.encode())
        all_shown = is_end or piece.finish_reason == "length"
        shown = []
        while self._kept and (all_shown or self._kept[0][0] < self._num_shown):
            shown.append(self._kept.popleft()[1])
        return shown


class TokenTexts:
    """The texts of tokens in a row; joined they are the text. A character of several tokens stands at the last."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, shown: Sequence[StreamPiece], is_end: bool) -> list[str]:
        """The texts that the next tokens complete; half a character at the end stands at the last one."""
        last = len(shown) - 1 if is_end else -1
        return [
            self._decoder.decode(self._token_bytes.of(piece.token_id), index == last)
            for index, piece in enumerate(shown)
        ]


class ChatLogprobs:
    """Makes the entries of `logprobs.content`; each has its `num_top` likeliest alternatives."""

    def __init__(self, token_bytes: TokenBytes, num_top: int) -> None:
        self._token_bytes, self._num_top = token_bytes, num_top
        self._texts = TokenTexts(token_bytes)

    def entries(self, shown: Sequence[StreamPiece], is_end: bool) -> list[dict[str, Any]]:
        """The entries of the next tokens."""
        return [
            {
                "token": text,
                **self._numbers(piece.token_id, piece.logprob),
                "top_logprobs": [
                    {"token": self._token_bytes.text(token), **self._numbers(token, value)}
                    for token, value in piece.alternatives[: self._num_top]
                ],
            }
            for piece, text in zip(shown, self._texts.of(shown, is_end), strict=True)
        ]

    def _numbers(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        return {"logprob": finite(logprob), "bytes": list(self._token_bytes.of(token_id))}


def finite(logprob: float | None) -> float:
    """A number that JSON can write."""
    assert logprob is not None, "the engine was asked for log-probabilities"
    return max(LOWEST, logprob)


class TextLogprobs:
    """Makes the `logprobs` of a plain completion: four lists of one length. `text_offset` counts characters.

    The first token of a prompt that is echoed has no log-probability: null.
    """

    def __init__(self, token_bytes: TokenBytes, num_top: int) -> None:
        self._token_bytes, self._num_top = token_bytes, num_top
        self._texts = TokenTexts(token_bytes)
        self._offset = 0

    def lists(self, shown: Sequence[StreamPiece], is_end: bool) -> dict[str, Any]:
        """The lists of the next tokens."""
        tokens = self._texts.of(shown, is_end)
        offsets = []
        for text in tokens:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": tokens,
            "token_logprobs": [None if piece.logprob is None else finite(piece.logprob) for piece in shown],
            "top_logprobs": [None if piece.logprob is None else self._best(piece) for piece in shown],
            "text_offset": offsets,
        }

    def _best(self, piece: StreamPiece) -> dict[str, float]:
        return {self._token_bytes.text(token): finite(value) for token, value in piece.alternatives[: self._num_top]}
