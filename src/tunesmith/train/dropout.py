"""Dropout off where two policies are compared, as in the public tool and in TRL.

A log-ratio between a policy with dropout and a reference without would be noise before anything is learnt: the answers'
log-probabilities are sums over all their tokens, and each forward pass would draw other masks.
"""

from __future__ import annotations

from typing import Any

from tunesmith.train.stage import Setup


def silence_dropout(setup: Setup) -> None:
    """Set every dropout of the trained model to 0, and say so where there was one."""
    if _set_to_zero(setup.scorer.model):
        setup.say(f"note: stage {setup.config.stage} compares log-probabilities, so dropout is off (lora_dropout too)")


def _set_to_zero(model: Any) -> int:
    """How many modules had one."""
    found = 0
    for module in model.modules():
        if "Dropout" in type(module).__name__ and getattr(module, "p", None):  # torch's own, and OFT's of whole blocks
            module.p, found = 0.0, found + 1
        if isinstance(getattr(module, "attention_dropout", None), float) and module.attention_dropout:
            module.attention_dropout, found = 0.0, found + 1
    return found
