"""Other engines that generate or train: vLLM, SGLang, KTransformers.

Their keys concern only the verbs that start such an engine, so a training file that carries them still trains.
KTransformers comes later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.config.spec import Group, option

_KT = "train on one device with finetuning_type: lora"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class EngineOptions:
    """vLLM and SGLang."""

    GROUP: ClassVar[Group] = Group(
        "engines", "Inference engines", "推理引擎", ("chat", "webchat", "api", "eval", "predict")
    )

    infer_url: str | None = option(
        None,
        en="Address of a vLLM or SGLang server that runs already; unset: one is started.",
        zh="已在运行的 vLLM 或 SGLang 服务地址；不设置则自动启动一个。",
    )
    infer_api_key: str | None = option(
        None, en="Key of the server at infer_url.", zh="infer_url 所指服务的密钥。", secret=True
    )
    vllm_maxlen: int = option(4096, en="Longest sequence of vLLM in tokens.", zh="vLLM 的最大序列长度。", gt=0)
    vllm_gpu_util: float = option(0.7, en="Share of GPU memory for vLLM.", zh="vLLM 占用的显存比例。", gt=0, le=1)
    vllm_enforce_eager: bool = option(False, en="Use no CUDA graphs in vLLM.", zh="vLLM 不使用 CUDA 图。")
    vllm_max_lora_rank: int = option(32, en="Largest LoRA rank vLLM serves.", zh="vLLM 支持的最大 LoRA 秩。", gt=0)
    vllm_config: Mapping[str, Any] | str | None = option(
        None,
        en="Further settings of vLLM: its command line flags, name: value.",
        zh="vLLM 的其他参数，即其命令行选项（名称: 值）。",
    )
    sglang_maxlen: int = option(4096, en="Longest sequence of SGLang in tokens.", zh="SGLang 的最大序列长度。", gt=0)
    sglang_mem_fraction: float = option(
        0.7, en="Share of GPU memory for SGLang.", zh="SGLang 占用的显存比例。", gt=0, le=1
    )
    sglang_tp_size: int = option(
        -1,
        en="Tensor parallelism of SGLang; -1: all devices.",
        zh="SGLang 的张量并行度；-1 表示全部设备。",
        ge=-1,
    )
    sglang_config: Mapping[str, Any] | str | None = option(
        None,
        en="Further settings of SGLang: its command line flags, name: value.",
        zh="SGLang 的其他参数，即其命令行选项（名称: 值）。",
    )
    sglang_lora_backend: str = option(
        "triton",
        en="LoRA kernels of SGLang.",
        zh="SGLang 的 LoRA 算子后端。",
        choices=("triton", "flashinfer"),
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class LlamaCppOptions:
    """llama.cpp, which answers from GGUF files."""

    GROUP: ClassVar[Group] = Group("llamacpp", "llama.cpp", "llama.cpp", ("chat", "webchat", "api", "eval"))

    llamacpp_maxlen: int = option(
        4096,
        en="Longest sequence of llama.cpp in tokens, prompt and answer; 0: all that the model was trained with.",
        zh="llama.cpp 的最大序列长度（提示与回答合计的词元数）；0 表示模型训练时的全部长度。",
        ge=0,
    )
    llamacpp_slots: int = option(
        4,
        en="Requests that llama.cpp computes at the same time; each takes memory for llamacpp_maxlen tokens.",
        zh="llama.cpp 同时计算的请求数；每个请求占用 llamacpp_maxlen 个词元的缓存。",
        gt=0,
        le=64,
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class KTransformersOptions:
    """KTransformers: experts on the CPU."""

    GROUP: ClassVar[Group] = Group("ktransformers", "KTransformers", "KTransformers")

    use_kt: bool = option(False, en="Use KTransformers.", zh="使用 KTransformers。", later=_KT)
    kt_cpu_activation: str | None = option(
        None,
        en="Keep or recompute activations on the CPU.",
        zh="CPU 上保留或重算激活值。",
        choices=("retain", "recompute"),
        later=_KT,
    )
    kt_weight_path: str | None = option(None, en="Folder of the expert weights.", zh="专家权重的文件夹。", later=_KT)
    kt_non_expert_weight_path: str | None = option(
        None, en="Folder of the other weights.", zh="其他权重的文件夹。", later=_KT
    )
    kt_expert_checkpoint_path: str | None = option(
        None, en="Checkpoint of the experts.", zh="专家权重的检查点。", later=_KT
    )
    kt_use_lora_experts: bool | None = option(None, en="Add LoRA experts.", zh="添加 LoRA 专家。", later=_KT)
    kt_lora_expert_num: int | None = option(None, en="Number of LoRA experts.", zh="LoRA 专家的数量。", gt=0, later=_KT)
    kt_lora_expert_intermediate_size: int | None = option(
        None, en="Width of the LoRA experts.", zh="LoRA 专家的中间维度。", gt=0, later=_KT
    )
