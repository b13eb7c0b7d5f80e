"""Optimizers that save memory or converge differently, each with its own settings.

At most one of the `use_*` keys may be set; the plain optimizers are the choices of `optim`, in training.py. All but
Muon come from packages of their own (`pip install 'tunesmith[galore]'`, `[apollo]`, `[badam]`, `[adam-mini]`).
GaLore: arXiv 2403.03507. APOLLO: 2412.05270. BAdam: 2404.02827. Adam-mini: 2406.16793. Muon: 2502.16982.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.optimizers import APOLLO_PROJECTIONS, PROJECTIONS
from tunesmith.config.spec import Group, option


@dataclass(frozen=True, init=False, repr=False, eq=False)
class OptimizerOptions:
    """GaLore, APOLLO, BAdam, Adam-mini and Muon."""

    GROUP: ClassVar[Group] = Group("optimizers", "Special optimizers", "特殊优化器", ("train",))

    use_adam_mini: bool = option(
        False,
        en="Adam-mini: one step size per attention head and neuron, half the memory of Adam's state.",
        zh="Adam-mini：每个注意力头和神经元共用一个步长，优化器状态减半。",
    )
    use_muon: bool = option(
        False,
        en="Muon: orthogonalised momentum for the matrices of the layers, AdamW for everything else.",
        zh="Muon：对各层矩阵使用正交化动量，其余参数使用 AdamW。",
    )
    use_galore: bool = option(
        False,
        en="GaLore: keep the optimizer's state in a low-rank space of the gradients.",
        zh="GaLore：在梯度的低秩空间中保存优化器状态。",
    )
    galore_target: tuple[str, ...] = option(
        ("all",),
        en="Modules GaLore acts on, by parts of their names; all: every linear layer but the output head.",
        zh="GaLore 作用的模块（名称片段）；all 表示除输出层外的所有线性层。",
    )
    galore_rank: int = option(16, en="Rank of GaLore's projections.", zh="GaLore 投影的秩。", gt=0)
    galore_update_interval: int = option(200, en="Steps between new projections.", zh="更新投影的间隔步数。", gt=0)
    galore_scale: float = option(2.0, en="Factor on GaLore's updates.", zh="GaLore 更新量的缩放系数。", ge=0)
    galore_proj_type: str = option(
        "std",
        en="Side of the gradient that is projected; std: the longer one.",
        zh="投影梯度的哪一侧；std 表示较长的一侧。",
        choices=PROJECTIONS,
    )
    galore_layerwise: bool = option(
        False,
        en="Update each weight during the backward pass, so that its gradient can be dropped at once.",
        zh="在反向传播中逐个更新权重，梯度用完即弃。",
    )
    use_apollo: bool = option(
        False,
        en="APOLLO: estimate Adam's scaling of the gradients in a low-rank space.",
        zh="APOLLO：在低秩空间中估计 Adam 对梯度的缩放。",
    )
    apollo_target: tuple[str, ...] = option(
        ("all",),
        en="Modules APOLLO acts on, by parts of their names; all: every linear layer but the output head.",
        zh="APOLLO 作用的模块（名称片段）；all 表示除输出层外的所有线性层。",
    )
    apollo_rank: int = option(16, en="Rank of APOLLO's projections.", zh="APOLLO 投影的秩。", gt=0)
    apollo_update_interval: int = option(200, en="Steps between new projections.", zh="更新投影的间隔步数。", gt=0)
    apollo_scale: float = option(
        32.0,
        en="APOLLO's updates are multiplied by the square root of this.",
        zh="APOLLO 更新量乘以该值的平方根。",
        ge=0,
    )
    apollo_proj: str = option(
        "random",
        en="Projections are drawn at random or found by SVD.",
        zh="投影随机生成或由 SVD 求得。",
        choices=("svd", "random"),
    )
    apollo_proj_type: str = option(
        "std",
        en="Side of the gradient that is projected; std: the longer one.",
        zh="投影梯度的哪一侧；std 表示较长的一侧。",
        choices=APOLLO_PROJECTIONS,
    )
    apollo_scale_type: str = option(
        "channel",
        en="One scaling per channel or per tensor.",
        zh="按通道或按张量缩放。",
        choices=("channel", "tensor"),
    )
    apollo_layerwise: bool = option(
        False,
        en="Update each weight during the backward pass, so that its gradient can be dropped at once.",
        zh="在反向传播中逐个更新权重，梯度用完即弃。",
    )
    apollo_scale_front: bool = option(
        False,
        en="Apply apollo_scale before the growth of the update is limited, not after.",
        zh="在限制更新量增长之前（而非之后）应用 apollo_scale。",
    )
    use_badam: bool = option(
        False,
        en="BAdam: train one block of the weights at a time.",
        zh="BAdam：每次只训练一块权重。",
    )
    badam_mode: str = option(
        "layer",
        en="A block is a layer, or a share of every weight matrix.",
        zh="一块是一层，或每个权重矩阵的一部分。",
        choices=("layer", "ratio"),
    )
    badam_start_block: int | None = option(
        None,
        en="Layer to begin with, from 0; unset: the first one in the order of badam_switch_mode.",
        zh="从哪一层开始（从 0 计）；不设置则按 badam_switch_mode 的顺序。",
        ge=0,
    )
    badam_switch_mode: str | None = option(
        "ascending",
        en="Order of the layers; null: ascending.",
        zh="切换层的顺序；null 表示 ascending。",
        choices=("ascending", "descending", "random", "fixed"),
    )
    badam_switch_interval: int | None = option(
        50,
        en="Steps per block; -1 or null: never switch.",
        zh="每块训练的步数；-1 或 null 表示不切换。",
        ge=-1,
    )
    badam_update_ratio: float = option(
        0.05,
        en="Share of every matrix trained at a time in ratio mode.",
        zh="ratio 模式下每次训练的权重比例。",
        gt=0,
        le=1,
    )
    badam_mask_mode: str = option(
        "adjacent",
        en="In ratio mode: weights side by side, or scattered at random.",
        zh="ratio 模式下：选取相邻的权重或随机分散的权重。",
        choices=("adjacent", "scatter"),
    )
    badam_verbose: int = option(
        0,
        en="1: say which layer is trained now; 2: name its weights too.",
        zh="1：提示当前训练的层；2：同时列出其权重。",
        ge=0,
        le=2,
    )
