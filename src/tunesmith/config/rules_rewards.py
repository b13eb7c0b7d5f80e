"""What the stages that learn from rewards (ppo, grpo) need beside data: rows of `rules.RULES` and `rules.NOTES`."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.config.decide import SAMPLING_STAGES
from tunesmith.config.rule import Note, Rule
from tunesmith.config.schema import Config


def _rewarded(c: Config) -> bool:
    return c.stage in SAMPLING_STAGES


def _cut_note(key: str, cuts: Callable[[Config], bool]) -> Note:
    """The note for a sampling setting that makes answers follow another distribution than the policy's."""
    return Note(
        f"answers are drawn from the policy: {key}",
        lambda c, g: _rewarded(c) and cuts(c),
        f"{key} {{{key}}}: answers are drawn from another distribution than the one that is learnt; the loss takes "
        "them as drawn from the policy itself",
    )


REWARD_RULES: tuple[Rule, ...] = (
    Rule(
        "a stage that learns from rewards has one",
        ("stage", "reward_model", "reward_functions"),
        lambda c, g: _rewarded(c) and not (c.reward_model or c.reward_functions),
        "stage {stage} needs a reward, and none is named",
        "set reward_functions (exact, regex:PATTERN, rewards.py:function, ...), or reward_model to a model of stage rm",
    ),
    Rule(
        "a group has several answers",
        ("num_generations",),
        lambda c, g: c.stage == "grpo" and c.num_generations < 2,
        "num_generations is {num_generations}: an answer is judged against the others to the same prompt",
        "set num_generations to 2 or more; 8 is usual",
    ),
    Rule(
        "the answers of a group differ",
        ("do_sample", "temperature"),
        lambda c, g: c.stage == "grpo" and (not c.do_sample or c.temperature == 0),
        "do_sample is {do_sample} and temperature {temperature:g}: all answers to a prompt would be the same, and none "
        "better than another",
        "remove do_sample and temperature; they are then true and 1",
    ),
)

REWARD_NOTES: tuple[Note, ...] = (
    _cut_note("top_p", lambda c: c.top_p < 1),
    _cut_note("top_k", lambda c: c.top_k > 0),
    _cut_note("repetition_penalty", lambda c: c.repetition_penalty != 1),
)
