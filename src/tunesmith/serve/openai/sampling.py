"""Sampling fields of a request as the engine's: what is not said is as the configuration has it.

Two readings of OpenAI's that need care: `temperature` 0 is greedy, and a temperature above 0 asks for sampling even
where the configuration is greedy; `top_p` 0 leaves the likeliest token only. Each of `n` answers draws from a seed of
its own, counted up from `seed`; without one every request draws anew (the configuration's seed belongs to training).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunesmith.infer.engine import Grammar, SamplingParams
from tunesmith.serve.openai.errors import refused
from tunesmith.serve.openai.requests import GenerationBody


def to_params(body: GenerationBody, defaults: SamplingParams, vocabulary_size: int) -> SamplingParams:
    """The sampling settings that a request asks for. Raises: ApiError for a logit_bias outside the vocabulary."""
    given: dict[str, Any] = {
        "temperature": body.temperature,
        "top_p": body.top_p or None,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "max_new_tokens": body.max_tokens,
        "top_k": None if body.top_k is None else max(0, body.top_k),
        "do_sample": _do_sample(body),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return replace(
        defaults,
        seed=None,
        stop=tuple(dict.fromkeys(stop)),
        logit_bias=_logit_bias(body, vocabulary_size),
        **changes,
    )


def choice_params(params: SamplingParams, seed: int | None, index: int) -> SamplingParams:
    """The settings of answer `index` among several to one prompt."""
    return params if seed is None else replace(params, seed=(seed + index) % 2**63)


def held_to(params: SamplingParams, grammar: Grammar | None) -> SamplingParams:
    """The same settings under a grammar."""
    return params if grammar is None else replace(params, grammar=grammar)


def _do_sample(body: GenerationBody) -> bool | None:
    if body.top_p == 0:
        return False
    if body.do_sample is None and body.temperature is not None:
        return body.temperature > 0
    return body.do_sample


def _logit_bias(body: GenerationBody, vocabulary_size: int) -> tuple[tuple[int, float], ...]:
    pairs = tuple((int(token), float(bias)) for token, bias in (body.logit_bias or {}).items())
    for token, _ in pairs:
        if token >= vocabulary_size:
            raise refused("logit_bias", f"there is no token {token}; the vocabulary has {vocabulary_size} tokens")
    return pairs
