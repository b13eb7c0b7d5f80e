"""GRPO and its forms: how many answers a prompt gets, how they are compared, and how far a step may go.

Names follow TRL's GRPOConfig; where a name there is too general for one flat file it has `grpo_` in front. What is
left unset is the form's own figure, from its paper (`loss/group.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_GRPO = ("grpo",)


@dataclass(frozen=True, init=False, repr=False, eq=False)
class GroupOptions:
    """Learning from groups of answers."""

    GROUP: ClassVar[Group] = Group("groups", "Groups of answers (GRPO)", "分组回答（GRPO）", ("train",))

    grpo_loss: str = option(
        "grpo",
        en="Loss form: grpo averages over each answer, dapo over all tokens, dr_grpo divides by the longest length "
        "allowed, gspo takes the ratio of whole answers.",
        zh="损失形式：grpo 先按回答平均，dapo 按全部词元平均，dr_grpo 除以最大长度，gspo 使用整条回答的概率比。",
        choices=("grpo", "dapo", "dr_grpo", "gspo"),
        stages=_GRPO,
    )
    num_generations: int = option(
        8,
        en="Answers to each prompt, which are compared with each other.",
        zh="每个提示采样并相互比较的回答数。",
        gt=0,
        stages=_GRPO,
    )
    grpo_iterations: int = option(
        1, en="Updates from the same answers.", zh="同一批回答用于更新的次数。", gt=0, stages=_GRPO
    )
    grpo_beta: float = option(
        0.0,
        en="Weight of the divergence from the reference; 0: no reference is kept.",
        zh="与参考模型的 KL 散度的权重；0 表示不使用参考模型。",
        ge=0,
        stages=_GRPO,
    )
    grpo_epsilon: float | None = option(
        None,
        en="How far below 1 the ratio to the sampling policy counts; unset: 0.2 (gspo 0.0003).",
        zh="与采样策略的概率比低于 1 时的截断幅度；不设置则为 0.2（gspo 为 0.0003）。",
        gt=0,
        stages=_GRPO,
    )
    grpo_epsilon_high: float | None = option(
        None,
        en="How far above 1 it counts; unset: as grpo_epsilon where that is set, else 0.2 (dapo 0.28, gspo 0.0004).",
        zh="概率比高于 1 时的截断幅度；不设置则与 grpo_epsilon 相同，"
        "二者都不设置时为 0.2（dapo 为 0.28，gspo 为 0.0004）。",
        gt=0,
        stages=_GRPO,
    )
    scale_rewards: str = option(
        "auto",
        en="What advantages are divided by: the deviation of the group's rewards, of the whole batch's, or nothing; "
        "auto: as the form says (dr_grpo none, the others group).",
        zh="优势除以什么：组内奖励的标准差、整批奖励的标准差，或不除；"
        "auto 按损失形式决定（dr_grpo 为 none，其余为 group）。",
        choices=("auto", "group", "batch", "none"),
        stages=_GRPO,
    )
    mask_truncated_completions: bool = option(
        False,
        en="Learn nothing from answers that were cut at the length limit.",
        zh="不从因长度上限被截断的回答中学习。",
        stages=_GRPO,
    )
    skip_equal_rewards: bool = option(
        False,
        en="Leave out prompts whose answers all got the same reward, so that they do not count in the mean.",
        zh="略去所有回答奖励相同的提示，使其不计入平均。",
        stages=_GRPO,
    )
    log_completions: bool = option(
        False,
        en="Write some sampled answers with their rewards to samples.jsonl whenever a step is logged.",
        zh="每次记录日志时，将部分采样回答及其奖励写入 samples.jsonl。",
        stages=("ppo", "grpo"),
    )
    num_completions_to_print: int = option(
        4,
        en="How many answers log_completions writes at a time.",
        zh="log_completions 每次写入的回答数。",
        gt=0,
        stages=("ppo", "grpo"),
    )
