"""What is learned and which weights learn it: stage, finetuning type, LoRA, freeze, OFT, token losses.

`methods` names the finetuning types that read a key; given with another type it is noted, not refused, since files are
often made by changing `finetuning_type` alone. LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.config.spec import Group, option

_LORA = ("lora",)
ADAPTER_METHODS = ("lora", "oft")
_OFT = ("oft",)


@dataclass(frozen=True, init=False, repr=False, eq=False)
class MethodOptions:
    """The training stage, the finetuning type and the losses on tokens."""

    GROUP: ClassVar[Group] = Group("method", "Method", "训练方法", ("train",))

    stage: str = option(
        "sft",
        en="What is trained: pt continues pretraining, sft learns answers, rm a reward model, dpo from pairs "
        "of answers, kto from answers with a thumb up or down, ppo and grpo from rewards, gkd from a teacher.",
        zh="训练阶段：pt 继续预训练，sft 有监督微调，rm 奖励模型，dpo 偏好对，kto 点赞点踩，"
        "ppo 与 grpo 奖励，gkd 教师蒸馏。",
        choices=("pt", "sft", "rm", "ppo", "dpo", "kto", "grpo", "gkd"),
    )
    finetuning_type: str = option(
        "lora",
        en="Which weights learn: all of them, some layers, or a small adapter.",
        zh="训练哪些权重：全部、部分层，或小型适配器。",
        choices=("lora", "oft", "freeze", "full"),
        verbs=("*",),
    )
    use_llama_pro: bool = option(
        False,
        en="Train only the blocks that were added to an expanded model.",
        zh="只训练扩展模型中新增的层。",
        methods=("lora", "freeze"),
    )
    pure_bf16: bool = option(
        False,
        en="Keep weights and optimizer in bfloat16, without 32-bit copies.",
        zh="权重和优化器全程使用 bfloat16，不保留 32 位副本。",
    )
    use_dft_loss: bool = option(
        False,
        en="Dynamic fine-tuning: weight each token by its probability.",
        zh="DFT：按概率为每个词元加权。",
    )
    use_asft_loss: bool = option(
        False,
        en="Anchored supervised fine-tuning: add a pull towards the base model.",
        zh="ASFT：增加向基座模型靠拢的约束。",
    )
    asft_alpha: float = option(
        0.1,
        en="Strength of the ASFT anchor.",
        zh="ASFT 约束的强度。",
        ge=0,
    )
    use_eaft_loss: bool = option(
        False,
        en="Entropy-adaptive fine-tuning: weight each token by its uncertainty.",
        zh="EAFT：按不确定性为每个词元加权。",
    )
    eaft_alpha: float = option(
        1.0,
        en="Exponent of the EAFT weight.",
        zh="EAFT 权重的指数。",
        ge=0,
    )
    freeze_vision_tower: bool = option(
        True,
        en="Multimodal models: keep the vision encoder as it is.",
        zh="多模态模型：不训练视觉编码器。",
        noop="only the language model is trained",
    )
    freeze_multi_modal_projector: bool = option(
        True,
        en="Multimodal models: keep the projector as it is.",
        zh="多模态模型：不训练多模态投影层。",
        noop="only the language model is trained",
    )
    freeze_language_model: bool = option(
        False,
        en="Multimodal models: keep the language model as it is.",
        zh="多模态模型：不训练语言模型。",
        later="only the language model is trained",
    )
    compute_accuracy: bool = option(
        False,
        en="Report the share of trained tokens predicted right, at evaluation.",
        zh="评估时报告预测正确的词元比例。",
    )
    disable_shuffling: bool = option(False, en="Train on the rows in their order.", zh="按数据原有的顺序训练。")
    early_stopping_steps: int | None = option(
        None,
        en="Stop after this many evaluations without improvement.",
        zh="连续多少次评估没有改善就停止训练。",
        gt=0,
    )
    plot_loss: bool = option(False, en="Draw the loss curve when training ends.", zh="训练结束时绘制损失曲线。")
    include_effective_tokens_per_second: bool = option(
        False,
        en="Report tokens per second without padding.",
        zh="报告不计填充的每秒词元数。",
        noop="tokens per second are always reported without padding",
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class FreezeOptions:
    """Training some layers of the model itself."""

    GROUP: ClassVar[Group] = Group("freeze", "Partial training (freeze)", "部分参数训练（freeze）", ("train",))

    freeze_trainable_layers: int = option(
        2,
        en="How many layers are trained: n > 0 the last n, n < 0 the first -n; with use_llama_pro: added blocks.",
        zh="训练的层数：正数为最后 n 层，负数为最前 n 层；使用 use_llama_pro 时为新增的层数。",
        methods=("lora", "freeze"),
        aliases=("num_layer_trainable",),
    )
    freeze_trainable_modules: tuple[str, ...] = option(
        ("all",),
        en="Modules inside those layers that are trained.",
        zh="这些层中参与训练的模块。",
        methods=("freeze",),
        aliases=("name_module_trainable",),
    )
    freeze_extra_modules: tuple[str, ...] = option(
        (),
        en="Modules outside the layers that are trained too, such as embed_tokens.",
        zh="层以外也参与训练的模块，例如 embed_tokens。",
        methods=("freeze",),
    )
    num_expand: int | None = option(
        None,
        en="Expanding a model: how many blocks are added, each after an equal number of layers.",
        zh="扩展模型时新增的层数，均匀插入各层之间。",
        gt=0,
        verbs=("expand",),
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class LoraOptions:
    """Low-rank adapters."""

    GROUP: ClassVar[Group] = Group("lora", "LoRA", "LoRA", ("train",))

    lora_rank: int = option(8, en="Rank of the LoRA matrices.", zh="LoRA 矩阵的秩。", gt=0, methods=_LORA)
    lora_alpha: int | None = option(
        None,
        en="Scale of LoRA; unset: twice the rank.",
        zh="LoRA 的缩放系数；不设置则为秩的两倍。",
        gt=0,
        methods=_LORA,
    )
    lora_dropout: float = option(
        0.0, en="Dropout in front of the LoRA matrices.", zh="LoRA 的随机丢弃率。", ge=0, lt=1, methods=_LORA
    )
    lora_target: tuple[str, ...] = option(
        ("all",),
        en="Linear modules that get an adapter; all means every one but the output head.",
        zh="加适配器的线性模块；all 表示除输出层外的全部。",
        methods=ADAPTER_METHODS,
    )
    additional_target: tuple[str, ...] = option(
        (),
        en="Modules that are trained in full and saved with the adapter.",
        zh="完整训练并随适配器一起保存的模块。",
        methods=ADAPTER_METHODS,
    )
    create_new_adapter: bool = option(
        False,
        en="Merge the given adapters first and train a new one.",
        zh="先合并已有的适配器，再训练一个新的。",
        methods=ADAPTER_METHODS,
    )
    rank_pattern: Mapping[str, Any] | None = option(
        None,
        en="Ranks of single layers, by name, end of a name or regular expression: {q_proj: 16}.",
        zh="按层名（或名称结尾、正则表达式）单独设置的秩，如 {q_proj: 16}。",
        methods=_LORA,
    )
    alpha_pattern: Mapping[str, Any] | None = option(
        None,
        en="Scales of single layers, written as rank_pattern.",
        zh="按层单独设置的缩放系数，写法同 rank_pattern。",
        methods=_LORA,
    )
    lora_layers: tuple[str, ...] = option(
        (),
        en="Numbered layers that get an adapter: numbers and ranges, -1 is the last, as in 0-3,-1; unset: all.",
        zh="加适配器的层号：可写编号与范围，-1 为最后一层，如 0-3,-1；不设置则为全部。",
        methods=_LORA,
    )
    loraplus_lr_ratio: float | None = option(
        None,
        en="LoRA+: learning rate of B divided by that of A; unset or 0: one learning rate for both.",
        zh="LoRA+：矩阵 B 与 A 的学习率之比；不设置或为 0 时两者相同。",
        ge=0,
        methods=_LORA,
    )
    loraplus_lr_embedding: float = option(
        1e-6,
        en="LoRA+: learning rate of matrix B of embedding adapters.",
        zh="LoRA+：词嵌入适配器中矩阵 B 的学习率。",
        ge=0,
        methods=_LORA,
    )
    use_rslora: bool = option(
        False,
        en="Rank-stabilised scaling: alpha over the root of the rank.",
        zh="rsLoRA：按秩的平方根缩放。",
        methods=_LORA,
    )
    use_dora: bool = option(
        False,
        en="Weight-decomposed LoRA.",
        zh="DoRA：权重分解的 LoRA。",
        methods=_LORA,
    )
    pissa_init: bool = option(
        False,
        en="Start from the principal singular vectors of the weights.",
        zh="PiSSA：用权重的主奇异向量初始化。",
        methods=_LORA,
    )
    pissa_iter: int = option(
        16,
        en="Iterations of the fast singular value decomposition; -1 is exact.",
        zh="PiSSA 快速奇异值分解的迭代次数；-1 为精确分解。",
        ge=-1,
        methods=_LORA,
    )
    pissa_convert: bool = option(
        False,
        en="Also save the PiSSA adapter as an ordinary LoRA adapter.",
        zh="将 PiSSA 适配器另存为普通 LoRA 适配器。",
        methods=_LORA,
    )

    loftq_init: bool = option(
        False,
        en="Start from what quantizing the weights loses (LoftQ).",
        zh="LoftQ：用权重的量化误差初始化。",
        methods=_LORA,
    )
    loftq_bits: int = option(
        4,
        en="LoftQ without quantization_bit: bits that the values of the base are rounded to.",
        zh="未设置 quantization_bit 时 LoftQ 对基座权重取值所用的位数。",
        choices=(4, 8),
        methods=_LORA,
    )
    loftq_iter: int = option(
        1,
        en="LoftQ without quantization_bit: how often quantizing and fitting alternate.",
        zh="未设置 quantization_bit 时 LoftQ 量化与拟合交替的次数。",
        gt=0,
        methods=_LORA,
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class OftOptions:
    """Orthogonal fine-tuning."""

    GROUP: ClassVar[Group] = Group("oft", "OFT", "OFT", ("train",))

    module_dropout: float = option(
        0.0,
        en="Share of OFT modules skipped at random.",
        zh="随机跳过的 OFT 模块比例。",
        ge=0,
        lt=1,
        methods=_OFT,
    )
    oft_rank: int = option(
        0,
        en="Number of OFT blocks in a layer; 0 leaves it to the block size.",
        zh="每层 OFT 块的数量；0 表示由块大小决定。",
        ge=0,
        methods=_OFT,
    )
    oft_block_size: int = option(
        32,
        en="Size of the orthogonal blocks; it must divide the inputs of every adapted layer.",
        zh="正交块的大小，须能整除各目标层的输入维度。",
        ge=0,
        methods=_OFT,
    )
    oft_target: tuple[str, ...] = option(
        ("all",),
        en="Linear modules that get an OFT adapter.",
        zh="加 OFT 适配器的线性模块。",
        methods=_OFT,
    )
