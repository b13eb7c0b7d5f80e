"""A case for every row of `rules_rewards.py`: (verb, settings that break it, settings that repair it)."""

from __future__ import annotations

_GROUPS = "stage=grpo reward_functions=exact"

BROKEN = {
    "a stage that learns from rewards has one": ("train", "stage=grpo", "reward_functions=exact"),
    "a group has several answers": ("train", f"{_GROUPS} num_generations=1", "num_generations=2"),
    "the answers of a group differ": ("train", f"{_GROUPS} do_sample=false", "do_sample=true"),
}

NOTED = {
    "answers are drawn from the policy: top_p": f"{_GROUPS} top_p=0.9",
    "answers are drawn from the policy: top_k": "stage=ppo reward_functions=exact top_k=20",
    "answers are drawn from the policy: repetition_penalty": f"{_GROUPS} repetition_penalty=1.1",
}
