"""The forms of a rule and of a note: one row each, so that the tables (`rules*.py`) read like lists.

A table that belongs to one concern lies in a file of its own and is joined in rules.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunesmith.config.schema import Config

TRAIN = ("train",)
MODEL_VERBS = ("train", "chat", "webchat", "api", "export", "eval", "predict")
PREDICT_VERBS = ("train", "predict")


@dataclass(frozen=True)
class Rule:
    """One rule between keys.

    Attributes:
        name: what the rule demands; tests and messages refer to it.
        keys: the keys at fault, the decisive one first; their origins are shown.
        broken: whether the configuration breaks it. Takes the configuration and the set of keys the user set.
        what, fix: the message; `{key}` is replaced by the value of that key.
        verbs: the verbs it concerns.
    """

    name: str
    keys: tuple[str, ...]
    broken: Callable[[Config, frozenset[str]], bool]
    what: str
    fix: str
    verbs: tuple[str, ...] = TRAIN


@dataclass(frozen=True)
class Note:
    """One row of advice: `text` is printed when `applies`; `{key}` is replaced by the value of that key."""

    name: str
    applies: Callable[[Config, frozenset[str]], bool]
    text: str
    verbs: tuple[str, ...] = TRAIN
