"""Rewards of your own for stages grpo and ppo: a function gets lists, an entry per answer, and returns a number each.

Name it in a training file as `reward_functions: path/to/rewards.py:brevity`. It is given what it asks for by name:
`completions`, `prompts`, `completion_ids`, `prompt_ids`, `finished`, and every column of the data (here `answer`).
"""

from __future__ import annotations


def brevity(completions: list[str]) -> list[float]:
    """1 for an answer of up to four characters, less for longer ones, 0 from twenty on."""
    return [min(1.0, max(0.0, (20 - len(text)) / 16)) for text in completions]


def close(completions: list[str], answer: list[str]) -> list[float]:
    """How near a number is to the right one: 1 when equal, 0.5 when one off, and so on; 0 for no number."""
    scores = []
    for text, right in zip(completions, answer, strict=True):
        try:
            scores.append(1 / (1 + abs(int(text) - int(right))))
        except ValueError:
            scores.append(0.0)
    return scores
