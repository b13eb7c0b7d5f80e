"""Answers of a given form: which tokens may come next, by the library llguidance.

A grammar is compiled once per request (milliseconds); each token then costs some ten microseconds. The form is a
property of the text: the model chooses freely among the tokens that keep it possible, and may end where it is whole.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.errors import ConfigError, ModelError
from tunesmith.infer.engine import Grammar


class GrammarState:
    """Where an answer stands in its grammar.

    Args:
        matcher: llguidance's, fresh.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, num_tokens: int) -> torch.Tensor:
        """(V) boolean: the tokens that may come next."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        if self._matcher.is_error():
            raise ModelError("the grammar of the answer failed", why=self._matcher.get_error())
        mask = np.zeros(num_tokens, dtype=bool)
        known = min(num_tokens, len(bits))
        mask[:known] = bits[:known]
        return torch.from_numpy(mask)

    def take(self, token_id: int) -> None:
        """Go on by the token that was chosen."""
        self._matcher.consume_token(token_id)


class Grammars:
    """Compiles grammars for one tokenizer. Building the first one takes about a second.

    Args:
        tokenizer: a transformers tokenizer; it must be a fast one when a grammar is asked for.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._vocabularies: dict[tuple[int, ...], Any] = {}

    def start(self, grammar: Grammar, stop_ids: Sequence[int]) -> GrammarState:
        """A fresh state; `stop_ids` are allowed where the answer may end.

        Raises:
            ConfigError: llguidance is not installed, or the grammar cannot be read.
        """
        if importlib.util.find_spec("llguidance") is None:
            raise ConfigError(
                "an answer of a given form needs the package llguidance",
                fix='pip install "tunesmith[api]", or ask without a form',
            )
        from llguidance import LLMatcher

        text = _compiled(grammar)
        problem = LLMatcher.validate_grammar(text)
        matcher = None if problem else LLMatcher(self._vocabulary(tuple(stop_ids)), text)
        if matcher is None or matcher.is_error():
            raise ConfigError(
                f"the {grammar.kind.replace('_', ' ')} of the answer cannot be used",
                why=str(problem or (matcher and matcher.get_error())).strip().split("\n")[0],
                fix="simplify it; what llguidance supports is listed in its documentation",
            )
        return GrammarState(matcher)

    def _vocabulary(self, stop_ids: tuple[int, ...]) -> Any:
        if stop_ids not in self._vocabularies:
            from llguidance.hf import from_tokenizer

            self._vocabularies[stop_ids] = from_tokenizer(self._tokenizer, eos_token=list(stop_ids) or None)
        return self._vocabularies[stop_ids]


def _compiled(grammar: Grammar) -> str:
    """The grammar in llguidance's own form."""
    from llguidance import LLMatcher

    try:
        if grammar.kind == "json_schema":
            return str(LLMatcher.grammar_from_json_schema(grammar.text, defaults={"whitespace_flexible": True}))
        if grammar.kind == "regex":
            return str(LLMatcher.grammar_from_regex(grammar.text))
        return str(LLMatcher.grammar_from_lark(grammar.text))
    except (ValueError, json.JSONDecodeError) as error:
        raise ConfigError(f"the {grammar.kind} of the answer cannot be read", why=str(error)) from error
