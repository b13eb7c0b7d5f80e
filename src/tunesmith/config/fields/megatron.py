"""Megatron Bridge: tensor, pipeline and expert parallelism.

Comes later; the keys are known so that a file made for it is refused by the name of the setting, not as a typo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_LATER = "it belongs to Megatron; train without it"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class MegatronOptions:
    """Megatron Bridge settings."""

    GROUP: ClassVar[Group] = Group("megatron", "Megatron", "Megatron", ("train",))

    tensor_model_parallel_size: int = option(
        1, en="Devices that share each matrix.", zh="张量并行度。", gt=0, later=_LATER
    )
    pipeline_model_parallel_size: int = option(
        1, en="Devices that share the layers.", zh="流水线并行度。", gt=0, later=_LATER
    )
    expert_model_parallel_size: int = option(
        1, en="Devices that share the experts.", zh="专家并行度。", gt=0, later=_LATER
    )
    context_parallel_size: int = option(1, en="Devices that share a sequence.", zh="上下文并行度。", gt=0, later=_LATER)
    virtual_pipeline_model_parallel_size: int | None = option(
        None, en="Pipeline stages per device.", zh="每个设备的虚拟流水线级数。", gt=0, later=_LATER
    )
    sequence_parallel: bool = option(
        False, en="Split activations along the sequence.", zh="沿序列维度切分激活值。", later=_LATER
    )
    recompute_granularity: str | None = option(
        None, en="What is recomputed.", zh="重算的粒度。", choices=("full", "selective"), later=_LATER
    )
    recompute_method: str | None = option(
        None, en="Which layers are recomputed.", zh="选择重算层的方法。", choices=("uniform", "block"), later=_LATER
    )
    recompute_num_layers: int | None = option(
        None, en="Number of layers recomputed.", zh="重算的层数。", gt=0, later=_LATER
    )
    account_for_embedding_in_pipeline_split: bool | None = option(
        None, en="Count the embedding as a layer.", zh="切分流水线时将词嵌入计为一层。", later=_LATER
    )
    account_for_loss_in_pipeline_split: bool | None = option(
        None, en="Count the loss as a layer.", zh="切分流水线时将损失计为一层。", later=_LATER
    )
    bias_activation_fusion: bool | None = option(
        None, en="Fuse bias and activation.", zh="融合偏置与激活函数。", later=_LATER
    )
    apply_rope_fusion: bool | None = option(None, en="Fuse rotary positions.", zh="融合旋转位置编码。", later=_LATER)
    masked_softmax_fusion: bool | None = option(
        None, en="Fuse mask and softmax.", zh="融合掩码与 softmax。", later=_LATER
    )
    cross_entropy_loss_fusion: bool | None = option(None, en="Fuse the loss.", zh="融合交叉熵损失。", later=_LATER)
    moe_grouped_gemm: bool | None = option(
        None, en="Compute all experts in one product.", zh="将各专家的矩阵乘法合并计算。", later=_LATER
    )
    moe_token_dispatcher_type: str | None = option(
        None,
        en="How tokens reach the experts.",
        zh="词元分发到专家的方式。",
        choices=("allgather", "alltoall", "flex"),
        later=_LATER,
    )
    calculate_per_token_loss: bool | None = option(
        None, en="Average the loss over tokens.", zh="按词元平均损失。", later=_LATER
    )
    use_distributed_optimizer: bool = option(
        True, en="Share the optimizer's state.", zh="分片保存优化器状态。", later=_LATER
    )
    overlap_param_gather: bool = option(
        True, en="Gather weights while computing.", zh="计算时同步收集参数。", later=_LATER
    )
    overlap_grad_reduce: bool = option(
        True, en="Sum gradients while computing.", zh="计算时同步归约梯度。", later=_LATER
    )
    use_packed_sequences: bool = option(
        False, en="Pack sequences in Megatron.", zh="在 Megatron 中打包序列。", later=_LATER
    )
    mixed_precision: str = option(
        "bf16_mixed", en="Precision recipe of Megatron.", zh="Megatron 的精度方案。", later=_LATER
    )
    megatron_pretrained_checkpoint: str | None = option(
        None, en="Checkpoint in Megatron's format.", zh="Megatron 格式的检查点。", later=_LATER
    )
    export_hf_on_finish: bool = option(
        False,
        en="Write a Hugging Face model when training ends.",
        zh="训练结束时导出 Hugging Face 格式的模型。",
        later=_LATER,
    )
    extra_config: str | None = option(
        None,
        en="Further settings of Megatron, as JSON or a file.",
        zh="Megatron 的其他配置（JSON 或文件）。",
        later=_LATER,
    )
