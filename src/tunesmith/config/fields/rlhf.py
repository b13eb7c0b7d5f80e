"""Preference and reinforcement learning: DPO and its relatives, KTO, reward models, PPO.

Each key names the stages that read it; given to another stage it is a note. Older names of the shared settings
(`dpo_beta`, `dpo_loss`, ...) are read as the new ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_BITS = (4, 8)
_WITH_REWARDS = ("ppo", "grpo")
_WITH_REFERENCE = ("sft", "dpo", "kto", "ppo", "grpo")  # sft where it is anchored (use_asft_loss)


@dataclass(frozen=True, init=False, repr=False, eq=False)
class RlhfOptions:
    """Learning from preferences and rewards."""

    GROUP: ClassVar[Group] = Group("rlhf", "Preferences and rewards", "偏好与奖励", ("train",))

    pref_beta: float = option(
        0.1,
        en="How strongly the policy is held to the reference.",
        zh="策略受参考模型约束的强度。",
        ge=0,
        aliases=("dpo_beta", "kto_beta", "orpo_beta"),
        stages=("dpo", "kto"),
    )
    pref_ftx: float = option(
        0.0,
        en="Weight of the supervised loss on chosen answers.",
        zh="优选回答上监督损失的权重。",
        ge=0,
        aliases=("dpo_ftx", "kto_ftx"),
        stages=("dpo", "kto"),
    )
    pref_bco_weight: float = option(
        0.0,
        en="Weight of the binary classifier loss.",
        zh="二分类（BCO）损失的权重。",
        ge=0,
        stages=("dpo",),
    )
    pref_loss: str = option(
        "sigmoid",
        en="Preference loss.",
        zh="偏好损失的类型。",
        choices=(
            "sigmoid",
            "hinge",
            "ipo",
            "kto_pair",
            "orpo",
            "simpo",
            "robust",
            "apo_zero",
            "apo_down",
            "exo_pair",
            "nca_pair",
            "bco_pair",
            "sppo_hard",
            "discopop",
        ),
        aliases=("dpo_loss",),
        stages=("dpo",),
    )
    dpo_label_smoothing: float = option(
        0.0,
        en="Assumed share of swapped preferences.",
        zh="假定标反的偏好所占比例。",
        ge=0,
        le=0.5,
        stages=("dpo",),
    )
    simpo_gamma: float = option(
        0.5,
        en="Margin of SimPO.",
        zh="SimPO 的间隔。",
        stages=("dpo",),
    )
    ld_alpha: float | None = option(
        None,
        en="LD-DPO: weight of the tokens beyond the shorter answer.",
        zh="LD-DPO：超出较短回答部分的权重。",
        ge=0,
        le=1,
        stages=("dpo",),
    )
    kto_chosen_weight: float = option(
        1.0,
        en="Weight of desirable answers.",
        zh="期望回答的权重。",
        ge=0,
        stages=("kto",),
    )
    kto_rejected_weight: float = option(
        1.0,
        en="Weight of undesirable answers.",
        zh="不期望回答的权重。",
        ge=0,
        stages=("kto",),
    )
    ppo_buffer_size: int = option(
        1, en="Batches collected before an update.", zh="每次更新前收集的批数。", gt=0, stages=("ppo",)
    )
    ppo_epochs: int = option(
        4, en="Passes over the collected answers.", zh="对收集到的回答训练的轮数。", gt=0, stages=("ppo",)
    )
    ppo_score_norm: bool = option(False, en="Normalise the rewards.", zh="归一化奖励分数。", stages=("ppo",))
    ppo_target: float = option(
        6.0, en="KL divergence that the controller aims at.", zh="控制器所追求的 KL 散度。", gt=0, stages=("ppo",)
    )
    ppo_whiten_rewards: bool = option(
        False, en="Whiten the rewards before advantages.", zh="计算优势前先白化奖励。", stages=("ppo",)
    )
    ppo_adaptive_kl: bool = option(
        True,
        en="Move the KL coefficient until the divergence per answer meets ppo_target; false keeps it as it is.",
        zh="自动调整 KL 系数，使每个回答的散度接近 ppo_target；false 则保持不变。",
        stages=("ppo",),
    )
    ppo_kl_coef: float = option(
        0.2, en="KL coefficient that training starts with.", zh="训练开始时的 KL 系数。", ge=0, stages=("ppo",)
    )
    ppo_kl_horizon: float = option(
        10_000.0,
        en="Answers in which the KL coefficient can move by a fifth.",
        zh="KL 系数变动五分之一所需的回答数。",
        gt=0,
        stages=("ppo",),
    )
    ppo_gamma: float = option(
        1.0, en="Discount of later rewards.", zh="后续奖励的折扣系数。", gt=0, le=1, stages=("ppo",)
    )
    ppo_lambda: float = option(
        0.95,
        en="Lambda of the generalised advantage estimate.",
        zh="广义优势估计（GAE）的 λ。",
        ge=0,
        le=1,
        stages=("ppo",),
    )
    teacher_model: str | None = option(
        None,
        en="The model that gkd distils: it has the vocabulary of the trained one.",
        zh="gkd 蒸馏的教师模型，词表须与被训练模型相同。",
        stages=("gkd",),
    )
    teacher_model_adapters: tuple[str, ...] = option(
        (), en="Adapters of the teacher.", zh="教师模型的适配器。", stages=("gkd",)
    )
    gkd_beta: float = option(
        0.5,
        en="Divergence that gkd lowers: 0 forward KL, 1 reverse KL, between them a Jensen-Shannon divergence.",
        zh="gkd 降低的散度：0 为正向 KL，1 为反向 KL，之间为 Jensen-Shannon 散度。",
        ge=0,
        le=1,
        stages=("gkd",),
    )
    gkd_lambda: float = option(
        0.0,
        en="Share of examples whose answer the student writes itself.",
        zh="由学生模型自己作答的样本比例。",
        ge=0,
        le=1,
        stages=("gkd",),
    )
    gkd_temperature: float = option(
        1.0,
        en="Temperature at which gkd compares teacher and student.",
        zh="gkd 比较教师与学生分布时的温度。",
        gt=0,
        stages=("gkd",),
    )
    gkd_topk: int | None = option(
        None,
        en="Ask the teacher once, before the first step, and keep this many of its likeliest tokens.",
        zh="训练前只询问教师一次，仅保留其概率最大的这么多个词元。",
        gt=0,
        stages=("gkd",),
    )
    ref_policy: str = option(
        "start",
        en="The reference where no ref_model is given: the weights that the run starts from, or the base model "
        "without any adapter. They differ when training goes on with an adapter.",
        zh="未指定 ref_model 时的参考：训练开始时的权重，或不带适配器的基座模型；继续训练已有适配器时两者不同。",
        choices=("start", "base"),
        stages=_WITH_REFERENCE,
    )
    ref_model: str | None = option(
        None,
        en="Reference model.",
        zh="参考模型。",
        stages=_WITH_REFERENCE,
    )
    ref_model_adapters: tuple[str, ...] = option(
        (),
        en="Adapters of the reference model.",
        zh="参考模型的适配器。",
        stages=_WITH_REFERENCE,
    )
    ref_model_quantization_bit: int | None = option(
        None,
        en="Bits of the reference model; how it is quantized, quantization_method and its kin say.",
        zh="参考模型的量化位数；量化方式由 quantization_method 等决定。",
        choices=_BITS,
        stages=_WITH_REFERENCE,
    )
    reward_model: tuple[str, ...] = option(
        (),
        en="What gives the reward; reward_model_type says what the entries are.",
        zh="奖励的来源；各项的含义由 reward_model_type 决定。",
        stages=_WITH_REWARDS,
    )
    reward_model_type: str = option(
        "lora",
        en="What reward_model holds. Type lora: an adapter of stage rm for the same base model; full: the folder of a "
        "whole reward model; api: an http(s) address that answers with scores; function: entries as in "
        "reward_functions.",
        zh="reward_model 的含义。lora：同一基座上由 rm 阶段训练的适配器；full：完整奖励模型的目录；"
        "api：返回分数的 http(s) 地址；function：写法同 reward_functions。",
        choices=("lora", "full", "api", "function"),
        stages=_WITH_REWARDS,
    )
    reward_model_adapters: tuple[str, ...] = option(
        (),
        en="Adapters on the base of a full reward model; the last one holds the value head.",
        zh="full 类型奖励模型所用的适配器；最后一个须含价值头。",
        stages=_WITH_REWARDS,
    )
    reward_model_quantization_bit: int | None = option(
        None,
        en="Bits in which a reward_model of type full is held; quantization_method and the keys beside it say how.",
        zh="full 类型奖励模型的量化位数；量化方式由 quantization_method 等参数决定。",
        choices=_BITS,
        stages=_WITH_REWARDS,
    )
    reward_functions: tuple[str, ...] = option(
        (),
        en="Rewards besides reward_model: file.py:function or package.module:function (your own code, executed), "
        "regex:PATTERN, fullmatch:PATTERN, exact[:COLUMN], json, json_equal[:COLUMN], json_schema[:COLUMN or "
        ":FILE.json], finished, overlong:LIMIT:MARGIN. A pattern with a comma needs a YAML list.",
        zh="reward_model 之外的奖励：file.py:function 或 package.module:function（会执行您自己的代码）、"
        "regex:正则、fullmatch:正则、exact[:列]、json、json_equal[:列]、json_schema[:列或 :文件.json]、finished、"
        "overlong:上限:余量。含逗号的正则须写成 YAML 列表项。",
        stages=_WITH_REWARDS,
    )
    reward_weights: tuple[float, ...] = option(
        (),
        en="Weight of each reward in their sum: first those of reward_model, then those of reward_functions; none: 1.",
        zh="各奖励求和时的权重：先 reward_model，后 reward_functions；不写则均为 1。",
        stages=_WITH_REWARDS,
    )
    reward_timeout_s: float = option(
        60.0,
        en="Seconds that one request to a reward server may take.",
        zh="向奖励服务器发送一次请求的超时秒数。",
        gt=0,
        stages=_WITH_REWARDS,
    )
