"""Optimizers that save memory or converge differently, each with its own settings.

All come later. The optimizers that exist are the choices of `optim`, in training.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_LATER = "use optim: adamw_torch, or finetuning_type: lora to save memory"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class OptimizerOptions:
    """GaLore, APOLLO, BAdam, Adam-mini and Muon."""

    GROUP: ClassVar[Group] = Group("optimizers", "Special optimizers", "特殊优化器", ("train",))

    use_adam_mini: bool = option(
        False, en="Adam with one second moment per block.", zh="Adam-mini：每块共用一个二阶矩。", later=_LATER
    )
    use_muon: bool = option(
        False, en="Muon: orthogonalised momentum for matrices.", zh="Muon：对矩阵使用正交化动量。", later=_LATER
    )
    use_galore: bool = option(
        False, en="GaLore: gradients in a low-rank space.", zh="GaLore：在低秩空间中处理梯度。", later=_LATER
    )
    galore_target: tuple[str, ...] = option(
        ("all",), en="Modules GaLore acts on.", zh="GaLore 作用的模块。", later=_LATER
    )
    galore_rank: int = option(16, en="Rank of GaLore.", zh="GaLore 的秩。", gt=0, later=_LATER)
    galore_update_interval: int = option(
        200, en="Steps between new projections.", zh="更新投影的间隔步数。", gt=0, later=_LATER
    )
    galore_scale: float = option(2.0, en="Scale of GaLore.", zh="GaLore 的缩放系数。", ge=0, later=_LATER)
    galore_proj_type: str = option(
        "std",
        en="Kind of projection.",
        zh="投影的类型。",
        choices=("std", "reverse_std", "right", "left", "full"),
        later=_LATER,
    )
    galore_layerwise: bool = option(False, en="Update layer by layer.", zh="逐层更新。", later=_LATER)
    use_apollo: bool = option(
        False,
        en="APOLLO: low-rank estimate of Adam's scaling.",
        zh="APOLLO：以低秩方式估计 Adam 的缩放。",
        later=_LATER,
    )
    apollo_target: tuple[str, ...] = option(
        ("all",), en="Modules APOLLO acts on.", zh="APOLLO 作用的模块。", later=_LATER
    )
    apollo_rank: int = option(16, en="Rank of APOLLO.", zh="APOLLO 的秩。", gt=0, later=_LATER)
    apollo_update_interval: int = option(
        200, en="Steps between new projections.", zh="更新投影的间隔步数。", gt=0, later=_LATER
    )
    apollo_scale: float = option(32.0, en="Scale of APOLLO.", zh="APOLLO 的缩放系数。", ge=0, later=_LATER)
    apollo_proj: str = option(
        "random", en="How projections are found.", zh="投影的求法。", choices=("svd", "random"), later=_LATER
    )
    apollo_proj_type: str = option(
        "std", en="Kind of projection.", zh="投影的类型。", choices=("std", "right", "left"), later=_LATER
    )
    apollo_scale_type: str = option(
        "channel",
        en="Scale per channel or per tensor.",
        zh="按通道或按张量缩放。",
        choices=("channel", "tensor"),
        later=_LATER,
    )
    apollo_layerwise: bool = option(False, en="Update layer by layer.", zh="逐层更新。", later=_LATER)
    apollo_scale_front: bool = option(
        False, en="Scale before the norm limiter.", zh="在范数限制之前缩放。", later=_LATER
    )
    use_badam: bool = option(
        False, en="BAdam: train one block of layers at a time.", zh="BAdam：每次只训练一块层。", later=_LATER
    )
    badam_mode: str = option(
        "layer",
        en="Blocks are layers or a share of the weights.",
        zh="按层或按权重比例分块。",
        choices=("layer", "ratio"),
        later=_LATER,
    )
    badam_start_block: int | None = option(
        None, en="First block to train.", zh="从哪一块开始训练。", ge=0, later=_LATER
    )
    badam_switch_mode: str | None = option(
        "ascending",
        en="Order of the blocks.",
        zh="切换块的顺序。",
        choices=("ascending", "descending", "random", "fixed"),
        later=_LATER,
    )
    badam_switch_interval: int | None = option(
        50, en="Steps per block; -1: never switch.", zh="每块训练的步数；-1 表示不切换。", ge=-1, later=_LATER
    )
    badam_update_ratio: float = option(
        0.05,
        en="Share of the weights trained in ratio mode.",
        zh="ratio 模式下训练的权重比例。",
        ge=0,
        le=1,
        later=_LATER,
    )
    badam_mask_mode: str = option(
        "adjacent",
        en="How those weights are chosen.",
        zh="这些权重的选取方式。",
        choices=("adjacent", "scatter"),
        later=_LATER,
    )
    badam_verbose: int = option(0, en="How much BAdam prints.", zh="BAdam 的输出详细程度。", ge=0, le=2, later=_LATER)
