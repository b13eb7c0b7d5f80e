"""Samples for the tests of rewards."""

from __future__ import annotations

from typing import Any

from tunesmith.train.rewards.sample import Sample
from tunesmith.types import RowRef

REF = RowRef("rows", "data/rows.json", 7, 3)


def sample(completion: str, **details: Any) -> Sample:
    """A sample with this answer; everything else has a default."""
    values: dict[str, Any] = {
        "prompt_text": "<|im_start|>user\n6 * 7?<|im_end|>\n",
        "completion_text": completion,
        "prompt_ids": (1, 10, 11, 2),
        "completion_ids": (12, 13, 2),
        "full_text": f"<|im_start|>user\n6 * 7?<|im_end|>\n{completion}<|im_end|>",
        "fields": {"answer": "42"},
        "finished": True,
        "ref": REF,
    }
    return Sample(**(values | details))


def lengths(completions: list[str], **columns: Any) -> list[int]:
    """A reward function of a module."""
    return [len(text) for text in completions]
