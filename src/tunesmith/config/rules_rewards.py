"""What learning from rewards (ppo, grpo) and from a teacher (gkd) needs beside data: rows of `RULES` and `NOTES`."""

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
    Rule(
        "the answers of ppo are drawn",
        ("do_sample", "temperature"),
        lambda c, g: c.stage == "ppo" and (not c.do_sample or c.temperature == 0),
        "do_sample is {do_sample} and temperature {temperature:g}: the likeliest answer alone is no sample of the "
        "policy, and nothing else is ever tried",
        "remove do_sample and temperature; they are then true and 1",
    ),
    Rule(
        "a reward adapter stands beside an adapter",
        ("reward_model_type", "finetuning_type"),
        lambda c, g: (
            _rewarded(c) and bool(c.reward_model) and c.reward_model_type == "lora" and c.finetuning_type != "lora"
        ),
        "reward_model_type is lora, but finetuning_type is {finetuning_type}: the reward adapter acts on the base "
        "weights, which would be trained away under it",
        "set reward_model_type: full and reward_model to a whole reward model, or finetuning_type: lora",
    ),
    Rule(
        "prompts are not packed",
        ("packing", "stage"),
        lambda c, g: _rewarded(c) and bool(c.packing),
        "packing fills rows up to cutoff_len, but stage {stage} counts prompts: a step would hold as many as happen "
        "to fit",
        "set packing: false; answers share rows in any case, each seeing its own prompt only",
    ),
    Rule(
        "distillation has a teacher",
        ("stage", "teacher_model"),
        lambda c, g: c.stage == "gkd" and not c.teacher_model,
        "stage gkd distils a teacher, and none is named",
        "set teacher_model to a model with the vocabulary of the trained one",
    ),
    Rule(
        "a teacher that is asked once has the answers already",
        ("gkd_topk", "gkd_lambda"),
        lambda c, g: c.stage == "gkd" and c.gkd_topk is not None and c.gkd_lambda > 0,
        "gkd_topk asks the teacher before training, but with gkd_lambda {gkd_lambda:g} the student writes answers "
        "that nobody knows then",
        "set gkd_lambda: 0, or remove gkd_topk",
    ),
)

REWARD_NOTES: tuple[Note, ...] = (
    _cut_note("top_p", lambda c: c.top_p < 1),
    _cut_note("top_k", lambda c: c.top_k > 0),
    _cut_note("repetition_penalty", lambda c: c.repetition_penalty != 1),
    Note(
        "a controller that stands still",
        lambda c, g: c.stage == "ppo" and not c.ppo_adaptive_kl and bool(g & {"ppo_target", "ppo_kl_horizon"}),
        "ppo_target and ppo_kl_horizon have no effect: ppo_adaptive_kl is false",
    ),
)
