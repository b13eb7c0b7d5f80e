"""Which model, which adapters, how they are read and what is changed about the network before training.

Keys of the public vocabulary keep their names and meanings. Nothing here runs code from a model repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.config.spec import Group, option

_FAST_PATH = "the built-in fast path does this job on every device, without that package"
_HUB = "only the Hugging Face hub is read; download from other hubs with their own tool and give the folder"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class ModelOptions:
    """The model and how it is loaded."""

    GROUP: ClassVar[Group] = Group("model", "Model", "模型")

    model_name_or_path: str | None = option(
        None,
        en="Folder of the model, or its name on a hub.",
        zh="模型所在的文件夹，或它在模型站上的名称。",
    )
    adapter_name_or_path: tuple[str, ...] = option(
        (),
        en="Folders of trained adapters; all but the last are merged, the last is continued or served.",
        zh="已训练的适配器文件夹；前面的先合并，最后一个继续训练或用于推理。",
        aliases=("checkpoint_dir",),
    )
    serve_adapters: Mapping[str, Any] | None = option(
        None,
        en="Further adapters on the same base, name: folder; clients choose one by `model`.",
        zh="同一基座上一并提供服务的其他适配器（名称: 文件夹）；客户端用 `model` 选择。",
        verbs=("api", "webchat", "chat"),
    )
    adapter_folder: str | None = option(
        None,
        en="Sub-folder of the adapter repository that holds the adapter.",
        zh="适配器仓库中存放适配器的子文件夹。",
        later="give the whole path in adapter_name_or_path",
    )
    cache_dir: str | None = option(
        None,
        en="Where downloaded models and datasets are kept.",
        zh="下载的模型和数据集的存放位置。",
    )
    model_revision: str = option(
        "main", en="Branch, tag or commit of the model on its hub.", zh="模型在模型站上的分支、标签或提交号。"
    )
    use_fast_tokenizer: bool = option(
        True,
        en="Use the fast (Rust) tokenizer.",
        zh="使用快速（Rust 实现的）分词器。",
        noop="the fast tokenizer is always used: it alone can report which text a token came from",
    )
    trust_remote_code: bool = option(
        False,
        en="Allow code from the model repository to run.",
        zh="允许运行模型仓库中附带的代码。",
        noop="remote code is never run; model types are built in",
    )
    low_cpu_mem_usage: bool = option(
        True,
        en="Load weights without a second copy in memory.",
        zh="加载权重时不在内存中保留第二份。",
        noop="weights are always loaded without a second copy",
    )
    flash_attn: str = option(
        "auto",
        en="Attention kernel: auto picks the fastest this machine has; disabled is the plain formula.",
        zh="注意力的实现方式：auto 会选用本机上最快的一种；disabled 表示直接按公式计算。",
        choices=("auto", "disabled", "sdpa", "fa2", "fa3"),
        older_values={"true": "auto", "off": "disabled", "false": "disabled"},
    )
    use_unsloth: bool = option(
        False,
        en="Use the unsloth engine.",
        zh="使用 unsloth 加速引擎。",
        noop=_FAST_PATH,
        verbs=("train",),
    )
    use_unsloth_gc: bool = option(
        False,
        en="Save memory as unsloth's gradient checkpointing does: turns on the built-in one, without offloading.",
        zh="像 unsloth 的梯度检查点那样节省内存：开启内置的梯度检查点，不做卸载。",
        verbs=("train",),
    )
    enable_liger_kernel: bool = option(
        False,
        en="Use the Liger fused kernels.",
        zh="使用 Liger 融合算子。",
        noop=_FAST_PATH,
        verbs=("train",),
        aliases=("use_liger_kernel",),
    )
    use_v1_kernels: bool = option(
        False,
        en="Use the public tool's experimental kernels.",
        zh="使用原工具的实验性算子。",
        noop=_FAST_PATH,
        verbs=("train",),
    )
    disable_gradient_checkpointing: bool = option(
        False,
        en="Never recompute activations: faster, but takes more memory.",
        zh="从不重算激活值：更快，但占用更多内存。",
        verbs=("train",),
    )
    use_reentrant_gc: bool = option(
        True,
        en="Use the re-entrant form of gradient checkpointing.",
        zh="使用可重入形式的梯度检查点。",
        noop="the non-reentrant form is always used; the gradients are the same",
        verbs=("train",),
    )
    infer_backend: str = option(
        "huggingface",
        en="Engine that generates text.",
        zh="生成文本所用的推理引擎。",
        choices=("huggingface", "llamacpp", "vllm", "sglang"),
        older_values={"hf": "huggingface", "llama.cpp": "llamacpp"},
        verbs=("chat", "webchat", "api", "eval", "predict"),
    )
    infer_dtype: str = option(
        "auto",
        en="Number format for inference and export; auto keeps that of the model.",
        zh="推理和导出所用的数值精度；auto 表示沿用模型自身的精度。",
        choices=("auto", "float16", "bfloat16", "float32"),
        older_values={"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"},
        aliases=("torch_dtype",),
    )
    use_kv_cache: bool = option(
        True,
        en="Keep keys and values while generating.",
        zh="生成时保留键值缓存。",
        noop="the cache is always used when generating and never when training",
    )
    offload_folder: str = option(
        "offload",
        en="Folder for weights that do not fit in memory.",
        zh="内存放不下的权重所写入的文件夹。",
        noop="weights are not offloaded to disk",
    )
    resize_vocab: bool = option(
        False,
        en="Make the embeddings large enough for the tokenizer, in multiples of 64; new tokens switch it on.",
        zh="把词嵌入扩展到能容纳分词器词表（64 的倍数）；添加新词元时自动开启。",
        verbs=("train",),
    )
    split_special_tokens: bool = option(
        False,
        en="Read special tokens inside rows as plain text.",
        zh="把数据中出现的特殊标记当作普通文本。",
        noop="special-token text inside a row is always plain text; those of the template are always tokens",
    )
    add_tokens: tuple[str, ...] = option(
        (),
        en="Plain tokens to add to the vocabulary.",
        zh="要加入词表的普通词元。",
    )
    add_special_tokens: tuple[str, ...] = option(
        (),
        en="Special tokens to add to the vocabulary.",
        zh="要加入词表的特殊标记。",
        aliases=("new_special_tokens",),
    )
    new_special_tokens_config: str | None = option(
        None,
        en="YAML file of new special tokens with a description of each.",
        zh="新特殊标记及其含义的 YAML 文件。",
    )
    init_special_tokens: str = option(
        "noise_init",
        en="How the embeddings of new special tokens start.",
        zh="新特殊标记的词嵌入如何初始化。",
        choices=("noise_init", "desc_init", "desc_init_w_noise"),
    )
    rope_scaling: str | None = option(
        None,
        en="How rotary positions are stretched for longer contexts.",
        zh="为更长的上下文扩展旋转位置编码的方法。",
        choices=("linear", "dynamic", "yarn", "llama3"),
    )
    shift_attn: bool = option(
        False,
        en="Use the shifted sparse attention of LongLoRA.",
        zh="使用 LongLoRA 的移位稀疏注意力。",
        verbs=("train",),
    )
    mixture_of_depths: str | None = option(
        None,
        en="Convert the model to, or load it as, mixture of depths.",
        zh="将模型转换为或加载为深度混合结构。",
        choices=("convert", "load"),
        later="train the model as it is",
    )
    moe_aux_loss_coef: float | None = option(
        None,
        en="Weight of the load-balancing loss of a mixture of experts.",
        zh="混合专家模型负载均衡损失的权重。",
        ge=0,
        verbs=("train",),
    )
    upcast_layernorm: bool = option(
        False,
        en="Keep normalisation weights in 32 bits.",
        zh="以 32 位精度保存归一化层的权重。",
        verbs=("train",),
    )
    upcast_lmhead_output: bool = option(
        False,
        en="Compute the loss from 32-bit logits.",
        zh="用 32 位精度的 logits 计算损失。",
        noop="the loss is always computed from 32-bit logits",
        verbs=("train",),
    )
    train_from_scratch: bool = option(
        False,
        en="Start from random weights instead of the pretrained ones.",
        zh="从随机权重而不是预训练权重开始。",
        verbs=("train",),
    )
    hf_hub_token: str | None = option(
        None,
        en="Token for the Hugging Face hub; better kept in the environment, as HF_TOKEN.",
        zh="Hugging Face 的访问令牌；更宜放在环境变量 HF_TOKEN 中。",
        secret=True,
        aliases=("use_auth_token", "hub_token"),
    )
    ms_hub_token: str | None = option(
        None,
        en="Token for the ModelScope hub; better kept in the environment, as MODELSCOPE_API_TOKEN.",
        zh="魔搭社区的访问令牌；更宜放在环境变量 MODELSCOPE_API_TOKEN 中。",
        secret=True,
    )
    om_hub_token: str | None = option(
        None,
        en="Token for the Modelers hub.",
        zh="魔乐社区的访问令牌。",
        secret=True,
        noop=_HUB,
    )
    print_param_status: bool = option(
        False,
        en="List every parameter with its type and whether it is trained.",
        zh="列出每个参数的精度以及是否参与训练。",
        verbs=("train",),
    )
