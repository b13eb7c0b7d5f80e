"""The engine on transformers models: a plain token loop over the model's key/value cache, one request at a time.

Own loop rather than `model.generate`: it must stop exactly at the renderer's stop tokens whatever the model's
generation settings say, stream without a second thread, and end at once when the reader closes the stream.
Cost: one forward pass per token; on 2 CPU cores a 135M model in bf16 gives 15 to 30 tokens per second.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from tunesmith.infer.batch import last_row_only
from tunesmith.infer.engine import Completion, SamplingParams, StreamPiece, collect, num_new_tokens
from tunesmith.infer.sampling import choose_token
from tunesmith.infer.stream import IncrementalDetokenizer
from tunesmith.model.rope import context_length


class HFEngine:
    """Generates with a transformers model (with or without PEFT adapters attached), already on its device.

    Args:
        model: a causal language model; it is put into evaluation mode.
        tokenizer: turns answer ids into text; prompts come as ids.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model.eval()
        self._tokenizer = tokenizer
        self._context_length = context_length(model.config)
        self._last_row_only = last_row_only(model)

    @property
    def context_length(self) -> int:
        """Tokens that fit, prompt and answer together."""
        return self._context_length

    def generate(self, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        """The whole answer at once. Raises: ModelError when the prompt fills the context."""
        return collect(self.stream(prompt_ids, params), len(prompt_ids))

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Generator[StreamPiece, None, None]:
        """Yield the answer token by token; closing the generator ends the work.

        Raises:
            ModelError: the prompt is empty or leaves no room for an answer; it is never cut.
        """
        num_new = num_new_tokens(len(prompt_ids), params, self._context_length)
        return self._tokens(list(prompt_ids), params, num_new)

    def _tokens(
        self, prompt_ids: list[int], params: SamplingParams, num_new: int
    ) -> Generator[StreamPiece, None, None]:
        device = self.model.device
        generator = torch.Generator().manual_seed(secrets.randbits(63) if params.seed is None else params.seed)
        detokenizer = IncrementalDetokenizer(lambda ids: self._decode(ids, params.skip_special_tokens))
        cache = DynamicCache(config=self.model.config)
        seen_ids = torch.tensor(prompt_ids, device=device)
        input_ids = seen_ids
        for count in range(1, num_new + 1):
            logits_V = self._next_logits(input_ids, cache)
            token_id = choose_token(logits_V, seen_ids, params, generator)
            if token_id in params.stop_ids:
                yield StreamPiece(detokenizer.flush(), token_id, "stop")
                return
            text = detokenizer.add(token_id)
            if count == num_new:
                yield StreamPiece(text + detokenizer.flush(), token_id, "length")
                return
            yield StreamPiece(text, token_id)
            input_ids = torch.tensor([token_id], device=device)
            seen_ids = torch.cat([seen_ids, input_ids])

    # Not around the loop in `_tokens`: a generator that yields inside would leave the caller in this mode.
    @torch.inference_mode()
    def _next_logits(self, input_ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Logits (V) after `input_ids` (T), which continue what `cache` holds."""
        output = self.model(
            input_ids=input_ids[None], past_key_values=cache, use_cache=True, return_dict=True, **self._last_row_only
        )
        return output.logits[0, -1]

    def _decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        text = self._tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text
