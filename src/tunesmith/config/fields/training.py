"""How long, how fast and in which precision: the Hugging Face training arguments, with their names and defaults.

`transformers.TrainingArguments` itself is not imported, as that would cost seconds. Intervals (`*_steps`) below 1 are
shares of all steps. `micro_batch_tokens` is Tunesmith's own: it bounds memory without changing the update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.config.optimizers import OPTIMIZERS
from tunesmith.config.schedules import SCHEDULES
from tunesmith.config.spec import Group, option

_PREDICTS = ("train", "predict")


@dataclass(frozen=True, init=False, repr=False, eq=False)
class TrainingOptions:
    """Steps, batches, learning rate, optimizer and precision."""

    GROUP: ClassVar[Group] = Group("training", "Training", "训练", ("train",))

    output_dir: str | None = option(
        None,
        en="Folder of the run: weights, checkpoints, logs, plots.",
        zh="本次训练的文件夹：权重、检查点、日志和曲线图。",
        verbs=("*",),
    )
    overwrite_output_dir: bool = option(
        False,
        en="Start anew although the folder already holds a run.",
        zh="即使文件夹中已有训练结果也重新开始。",
        verbs=_PREDICTS,
    )
    resume_from_checkpoint: bool | str | None = option(
        None,
        en="Checkpoint to go on from; unset or true: the newest complete one, false: none.",
        zh="从哪个检查点继续；不设置或 true 表示最新的完整检查点，false 表示不继续。",
        verbs=_PREDICTS,
    )
    do_train: bool = option(False, en="Train.", zh="进行训练。", verbs=_PREDICTS)
    do_eval: bool = option(False, en="Evaluate when training ends.", zh="训练结束时进行评估。")
    do_predict: bool = option(
        False,
        en="Answer (stage rm: score) every evaluation row into generated_predictions.jsonl, after training if any.",
        zh="对每条评估数据生成回答（rm 阶段为打分）并写入 generated_predictions.jsonl；若有训练则在训练之后进行。",
        verbs=_PREDICTS,
    )
    predict_with_generate: bool = option(
        False,
        en="With do_predict: generate text and compare it with the labels; decided by the stage.",
        zh="do_predict 时生成文本并与标签比较；由训练阶段决定。",
        verbs=_PREDICTS,
    )
    per_device_train_batch_size: int = option(
        8,
        en="Examples per device and micro-batch.",
        zh="每个设备每个小批次的样本数。",
        gt=0,
        aliases=("per_gpu_train_batch_size",),
    )
    per_device_eval_batch_size: int = option(
        8,
        en="Examples per device and evaluation batch; unset: as for training.",
        zh="评估时每个设备每批的样本数；不设置则与训练相同。",
        gt=0,
        aliases=("per_gpu_eval_batch_size",),
        verbs=_PREDICTS,
    )
    gradient_accumulation_steps: int = option(
        1, en="Micro-batches per optimizer step.", zh="每次参数更新累积的小批次数。", gt=0
    )
    micro_batch_tokens: int | None = option(
        None,
        en="Most tokens computed at a time; unset: decided from memory. Changes speed, never the update.",
        zh="一次计算的最大词元数；不设置则按内存决定。只影响速度，不影响更新结果。",
        gt=0,
    )
    num_train_epochs: float = option(3.0, en="Passes over the training data.", zh="训练轮数。", gt=0)
    max_steps: int = option(
        -1,
        en="Number of optimizer steps; above 0 it replaces num_train_epochs.",
        zh="参数更新的总步数；大于 0 时取代 num_train_epochs。",
        ge=-1,
        older_values={"0": "-1"},
    )
    learning_rate: float = option(5e-5, en="Highest learning rate.", zh="最大学习率。", ge=0)
    embedding_learning_rate: float | None = option(
        None,
        en="Highest learning rate of trained input and output embeddings; unset: learning_rate.",
        zh="训练输入、输出词嵌入时的最大学习率；不设置则与 learning_rate 相同。",
        ge=0,
    )
    lr_scheduler_type: str = option(
        "linear",
        en="How the learning rate changes over the steps.",
        zh="学习率随步数变化的方式。",
        choices=tuple(SCHEDULES),
    )
    lr_scheduler_kwargs: Mapping[str, Any] | None = option(
        None,
        en="Further settings of the schedule, such as min_lr or num_cycles.",
        zh="学习率调度的其他参数，例如 min_lr 或 num_cycles。",
    )
    warmup_steps: int | float = option(
        0,
        en="Steps over which the learning rate rises; below 1: a share of all steps.",
        zh="预热步数；小于 1 时表示占总步数的比例。",
        ge=0,
    )
    warmup_ratio: float = option(
        0.0, en="Share of all steps over which the learning rate rises.", zh="预热步数占总步数的比例。", ge=0, le=1
    )
    optim: str = option(
        "adamw_torch_fused",
        en="Optimizer.",
        zh="优化器。",
        choices=tuple(OPTIMIZERS),
        older_values={"adamw_hf": "adamw_torch", "adamw": "adamw_torch"},
    )
    optim_args: str | None = option(
        None,
        en="Further settings of the optimizer, as `key=value,key=value`.",
        zh="优化器的其他参数，写作 `key=value,key=value`。",
    )
    optim_target_modules: tuple[str, ...] = option(
        (),
        en="Modules that optim: galore_* and apollo_* act on: parts of names, patterns, or all-linear.",
        zh="optim: galore_* 与 apollo_* 作用的模块：名称片段、正则表达式或 all-linear。",
    )
    weight_decay: float = option(
        0.0, en="Decay of the weights, biases and norms excepted.", zh="权重衰减（偏置和归一化层除外）。", ge=0
    )
    adam_beta1: float = option(
        0.9, en="Decay of Adam's mean of the gradients.", zh="Adam 一阶矩的衰减系数。", ge=0, lt=1
    )
    adam_beta2: float = option(
        0.999, en="Decay of Adam's mean of the squared gradients.", zh="Adam 二阶矩的衰减系数。", ge=0, lt=1
    )
    adam_epsilon: float = option(1e-8, en="Adam's guard against division by zero.", zh="Adam 防止除零的小常数。", gt=0)
    max_grad_norm: float = option(
        1.0, en="Gradients are scaled down to this norm; 0: never.", zh="梯度裁剪的最大范数；0 表示不裁剪。", ge=0
    )
    label_smoothing_factor: float = option(
        0.0,
        en="Share of the target probability spread over all tokens.",
        zh="标签平滑系数。",
        ge=0,
        lt=1,
    )
    neftune_noise_alpha: float | None = option(
        None,
        en="Strength of the noise added to embeddings while training.",
        zh="训练时加到词嵌入上的噪声强度。",
        ge=0,
    )
    average_tokens_across_devices: bool = option(
        True,
        en="Divide the loss by the tokens of the whole global batch.",
        zh="以全局批次的词元总数平均损失。",
        noop="the loss is always divided once, by the weight of the whole global batch",
    )
    group_by_length: bool = option(
        False,
        en="Put examples of like length into one batch.",
        zh="把长度相近的样本放进同一批。",
        noop="batches carry no padding, so there is nothing to gain",
    )
    train_sampling_strategy: str = option(
        "random",
        en="Order of the training examples.",
        zh="训练样本的顺序。",
        choices=("random", "sequential", "group_by_length"),
        later_choices={"sequential": "set disable_shuffling: true"},
        noop="batches carry no padding, so there is nothing to gain",
    )
    bf16: bool = option(False, en="Compute in bfloat16.", zh="使用 bfloat16 计算。")
    fp16: bool = option(False, en="Compute in float16 with loss scaling.", zh="使用 float16 计算并缩放损失。")
    tf32: bool | None = option(
        None,
        en="Allow TF32 matrix products on GPUs that have them.",
        zh="在支持的 GPU 上允许 TF32 矩阵乘法。",
        noop="matrix products follow the precision of bf16, fp16 and the weights",
    )
    bf16_full_eval: bool = option(
        False,
        en="Evaluate in pure bfloat16.",
        zh="评估时全程使用 bfloat16。",
        noop="evaluation uses the precision of training",
    )
    fp16_full_eval: bool = option(
        False,
        en="Evaluate in pure float16.",
        zh="评估时全程使用 float16。",
        noop="evaluation uses the precision of training",
    )
    cache_frozen_layers: bool | None = option(
        None,
        en="Run the layers below the lowest trained one once, and keep what they give; unset: where it saves work and "
        "takes at most 2 GB.",
        zh="最低可训练层以下的各层只计算一次并保留结果；不设置则在能省计算且不超过 2 GB 时启用。",
    )
    gradient_checkpointing: bool | None = option(
        None,
        en="Recompute activations to save memory; unset: decided from model and memory.",
        zh="重算激活值以节省内存；不设置则按模型和内存决定。",
        aliases=("activation_checkpointing",),
    )
    gradient_checkpointing_kwargs: Mapping[str, Any] | None = option(
        None,
        en="Further settings of gradient checkpointing.",
        zh="梯度检查点的其他参数。",
        noop="the non-reentrant form is always used; the gradients are the same",
        aliases=("activation_checkpointing_kwargs",),
    )
    torch_compile: bool = option(
        False, en="Compile the model with torch.compile.", zh="使用 torch.compile 编译模型。", later="train without it"
    )
    torch_compile_backend: str | None = option(
        None, en="Backend of torch.compile.", zh="torch.compile 的后端。", later="train without torch.compile"
    )
    torch_compile_mode: str | None = option(
        None, en="Mode of torch.compile.", zh="torch.compile 的模式。", later="train without torch.compile"
    )
    torch_empty_cache_steps: int | None = option(
        None,
        en="Empty the device's memory cache every so many steps.",
        zh="每隔多少步清空一次设备显存缓存。",
        gt=0,
        noop="memory is sized before the first step, so the cache does not grow",
    )
    auto_find_batch_size: bool = option(
        False,
        en="Make the batch smaller when memory runs out.",
        zh="内存不足时自动减小批次。",
        noop="micro_batch_tokens bounds the memory of a step, whatever the batch size",
    )
    seed: int = option(42, en="Seed of every random number.", zh="随机种子。", ge=0, verbs=("*",))
    data_seed: int | None = option(
        None, en="Seed of the order of the data; unset: seed.", zh="数据顺序的随机种子；不设置则与 seed 相同。", ge=0
    )
    full_determinism: bool = option(False, en="Use only deterministic operations.", zh="只使用确定性算子。")
    use_cpu: bool = option(
        False,
        en="Train on the CPU even if there is an accelerator.",
        zh="即使有加速卡也在 CPU 上训练。",
        aliases=("no_cuda",),
        verbs=("*",),
    )
    use_cache: bool = option(
        False,
        en="Keep keys and values while training.",
        zh="训练时保留键值缓存。",
        noop="the cache is never used when training and always when generating",
    )
