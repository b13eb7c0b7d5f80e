"""One answer on its way: from the scores of the next token to a piece of text, and the question whether to go on.

Everything that belongs to a single request is here (its random numbers, penalties, form, stop texts, the text so far),
so that an engine only has to bring scores, for one request or for many in turn: what an answer becomes depends on its
scores, and on nothing else that the engine does.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunesmith.infer.engine import FinishReason, SamplingParams, StreamPiece
from tunesmith.infer.grammar import Grammars
from tunesmith.infer.sampling import adjust, choose_token, scored
from tunesmith.infer.stop import StopScanner
from tunesmith.infer.stream import IncrementalDetokenizer


class Answer:
    """The state of one request.

    Args:
        prompt_ids: what is answered; the repetition penalty looks at it.
        params: how to choose and when to end.
        room: tokens that the answer may have.
        decoder: turns ids into text.
        grammars: compiles `params.grammar`.

    Raises: ConfigError when the grammar cannot be read.
    """

    def __init__(
        self, prompt_ids: Sequence[int], params: SamplingParams, room: int, decoder: Decoder, grammars: Grammars
    ) -> None:
        self.params = params
        self.token_ids: list[int] = []
        self._prompt_ids = tuple(prompt_ids)
        self._room = room
        self._grammar = None if params.grammar is None else grammars.start(params.grammar, params.stop_ids)
        self._generator = torch.Generator().manual_seed(
            secrets.randbits(63) if params.seed is None else params.seed % (1 << 63)
        )
        self._text = IncrementalDetokenizer(lambda ids: decoder.text(ids, params))
        self._stops = StopScanner(params.stop)

    def take(self, logits_V: Tensor) -> StreamPiece:
        """Choose the next token from its scores (V): any float dtype, on any device. Returns what to deliver."""
        logits_V = logits_V.float().cpu()
        token_id = self._choose(logits_V)
        logprob, alternatives = _logprobs(logits_V, token_id, self.params.num_logprobs)
        self.token_ids.append(token_id)
        text, reason = self._read(token_id)
        return StreamPiece(text, token_id, reason, logprob, alternatives)

    def _choose(self, logits_V: Tensor) -> int:
        params = self.params
        scores_V = adjust(logits_V, self.token_ids, params)
        if self._grammar is not None:
            scores_V = scores_V.masked_fill(~self._grammar.allowed(scores_V.shape[-1]), float("-inf"))
        seen = () if params.repetition_penalty == 1.0 else (*self._prompt_ids, *self.token_ids)
        token_id = choose_token(scores_V, torch.tensor(seen, dtype=torch.long), params, self._generator)
        if self._grammar is not None:
            self._grammar.take(token_id)
        return token_id

    def _read(self, token_id: int) -> tuple[str, FinishReason | None]:
        """What can be shown after a token, and whether it was the last."""
        if token_id in self.params.stop_ids:
            return self._rest(), "stop"
        shown = self._stops.add(self._text.add(token_id))
        if self._stops.found:
            return shown, "stop"
        if len(self.token_ids) < self._room:
            return shown, None
        shown += self._rest()
        return shown, "stop" if self._stops.found else "length"

    def _rest(self) -> str:
        """What was held back, up to a stop text that is complete only now."""
        return self._stops.add(self._text.flush()) + self._stops.flush()


def _logprobs(logits_V: Tensor, token_id: int, num: int | None) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """The log-probability of a token, and the best `num` tokens with theirs; of the model, before any change."""
    if num is None:
        return None, ()
    return scored(logits_V[None], torch.tensor([token_id]), num)[0]


class Decoder:
    """Ids to text as a request wants it.

    Args:
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special_ids: frozenset[int] | None = None

    def text(self, ids: Sequence[int], params: SamplingParams) -> str:
        """The text of tokens, without any cleaning-up of spaces."""
        skips = params.skip_special_tokens
        if skips and params.visible_ids:
            hidden = self._special() - set(params.visible_ids)
            ids, skips = [token_id for token_id in ids if token_id not in hidden], False
        text = self._tokenizer.decode(list(ids), skip_special_tokens=skips, clean_up_tokenization_spaces=False)
        return str(text)

    def _special(self) -> frozenset[int]:
        if self._special_ids is None:
            added = self._tokenizer.added_tokens_decoder.items()
            found = {token_id for token_id, token in added if token.special}
            self._special_ids = frozenset(found | set(self._tokenizer.all_special_ids))
        return self._special_ids
