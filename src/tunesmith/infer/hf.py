"""The simplest engine on transformers models: a plain token loop over the model's key/value cache, one answer at once.

It serves models whose attention cannot be given ragged rows (`model/ragged.py` says which), and checks, which want
nothing between them and the model. Own loop rather than `model.generate`: it must stop exactly at the renderer's stop
tokens whatever the model's generation settings say, and end at once when the reader closes the stream.
Cost: one forward pass per token; on 2 CPU cores a 135M model in bf16 gives 15 to 30 tokens per second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from tunesmith.infer.answer import Answer, Decoder
from tunesmith.infer.batch import last_row_only
from tunesmith.infer.engine import EngineBase, Event, SamplingParams, StreamPiece, check_scored, num_new_tokens
from tunesmith.infer.grammar import Grammars
from tunesmith.infer.sampling import scored
from tunesmith.model.rope import context_length


class HFEngine(EngineBase):
    """Generates with a transformers model (with or without PEFT adapters attached), already on its device.

    Args:
        model: a causal language model; it is put into evaluation mode.
        tokenizer: turns answer ids into text; prompts come as ids.
        models: the name under which it answers.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, models: Sequence[str] = ("model",)) -> None:
        self.model = model.eval()
        self.models = tuple(models)
        self.tokenizer = tokenizer
        self._decoder = Decoder(tokenizer)
        self._context_length = context_length(model.config)
        self._last_row_only = last_row_only(model)
        self._grammars = Grammars(tokenizer)
        self._turn = threading.Lock()
        self._num_waiting = self._num_running = 0

    @property
    def context_length(self) -> int:
        """Tokens that fit, prompt and answer together."""
        return self._context_length

    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, model: str | None = None
    ) -> Generator[StreamPiece, None, None]:
        """Yield the answer token by token, in the caller's thread; closing the generator ends the work.

        Raises:
            ModelError: the prompt is empty or leaves no room for an answer; it is never cut.
        """
        room = num_new_tokens(len(prompt_ids), params, self._context_length)
        answer = Answer(prompt_ids, params, room, self._decoder, self._grammars)
        return self._tokens(list(prompt_ids), answer)

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        deliver: Callable[[Event], None],
        model: str | None = None,
    ) -> _Ticket:
        """See `Engine.submit`: a thread of its own, which waits for its turn."""
        ticket = _Ticket()
        pieces = self.stream(prompt_ids, params, model)
        threading.Thread(target=self._work, args=(pieces, deliver, ticket), daemon=True).start()
        return ticket

    def _work(
        self, pieces: Generator[StreamPiece, None, None], deliver: Callable[[Event], None], ticket: _Ticket
    ) -> None:
        self._num_waiting += 1
        with self._turn:
            self._num_waiting, self._num_running = self._num_waiting - 1, 1
            try:
                while not ticket.cancelled.is_set() and (piece := next(pieces, None)) is not None:
                    deliver(piece)
            except (RuntimeError, ValueError, AssertionError) as error:
                deliver(error)
            finally:
                pieces.close()
                self._num_running = 0

    def _tokens(self, prompt_ids: list[int], answer: Answer) -> Generator[StreamPiece, None, None]:
        device = self.model.device
        cache = DynamicCache(config=self.model.config)
        input_ids = prompt_ids
        while True:
            logits_V = self._next_logits(torch.tensor(input_ids, device=device), cache)
            piece = answer.take(logits_V)
            yield piece
            if piece.finish_reason is not None:
                return
            input_ids = [piece.token_id]

    # Not around the loop in `_tokens`: a generator that yields inside would leave the caller in this mode.
    @torch.inference_mode()
    def _next_logits(self, input_ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Logits (V) after `input_ids` (T), which continue what `cache` holds."""
        output = self.model(
            input_ids=input_ids[None], past_key_values=cache, use_cache=True, return_dict=True, **self._last_row_only
        )
        return output.logits[0, -1]

    @torch.inference_mode()
    def score(self, ids: Sequence[int], num_prompt_tokens: int, model: str | None = None) -> list[float]:
        """See `Engine.score`: one pass over all tokens."""
        check_scored(len(ids), num_prompt_tokens, self._context_length)
        ids_T = torch.tensor(ids, device=self.model.device)
        with self._turn:
            logits_TV = self.model(input_ids=ids_T[None], return_dict=True).logits[0, num_prompt_tokens - 1 : -1]
        return [logprob for logprob, _ in scored(logits_TV, ids_T[num_prompt_tokens:], 0)]

    def figures(self) -> Mapping[str, float]:
        """See `Engine.figures`."""
        return {"running": self._num_running, "waiting": self._num_waiting}

    def close(self) -> None:
        """See `Engine.close`: waits for the pass that is under way. The model belongs to the caller."""
        with self._turn:  # a thread inside torch when Python leaves would abort the process
            pass


class _Ticket:
    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        """See `Ticket.cancel`."""
        self.cancelled.set()
