"""Writing a model that needs no adapter any more.

Only safetensors files are written. What cannot be done (bits a method does not have, calibration without rows) is
refused before the model is loaded, not after the merge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

EXPORT_BITS: dict[str, tuple[int, ...]] = {"gptq": (2, 3, 4, 8), "awq": (4,), "torchao": (4, 8), "bnb": (4, 8)}
"""The methods that an export can be quantized with, and the bits that each of them has."""


@dataclass(frozen=True, init=False, repr=False, eq=False)
class ExportOptions:
    """Where and how a merged model is written."""

    GROUP: ClassVar[Group] = Group("export", "Export", "导出", ("export",))

    export_dir: str | None = option(
        None, en="Folder that the merged model is written to.", zh="合并后模型的保存文件夹。"
    )
    export_format: str = option(
        "safetensors",
        en="What to write: a model folder, GGUF files for llama.cpp and Ollama, or the adapter alone as GGUF.",
        zh="导出的形式：模型文件夹、供 llama.cpp 和 Ollama 使用的 GGUF 文件，或仅将适配器导出为 GGUF。",
        choices=("safetensors", "gguf", "gguf_adapter"),
    )
    export_gguf_type: tuple[str, ...] = option(
        ("q8_0",),
        en="Number formats of the GGUF files, one file each.",
        zh="GGUF 文件的数值格式，每种格式生成一个文件。",
        choices=("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"),
    )
    export_size: int | float = option(
        5, en="Largest size of one weight file, in GB.", zh="单个权重文件的最大体积（GB）。", gt=0
    )
    export_device: str = option(
        "cpu",
        en="Device that merges; auto takes an accelerator if there is one.",
        zh="合并所用的设备；auto 会优先使用加速卡。",
        choices=("cpu", "auto"),
    )
    export_quantization_bit: int | None = option(
        None,
        en="Bits per weight of a quantized export: 4 or 8 (gptq also 2 and 3). Unset: plain weights.",
        zh="量化导出时每个权重的位数：4 或 8（gptq 还支持 2 和 3）。不设置则不量化。",
        ge=2,
        le=8,
    )
    export_quantization_method: str = option(
        "gptq",
        en="Method of a quantized export. gptq and awq are calibrated on rows; torchao and bnb only round.",
        zh="量化导出的方法。gptq 和 awq 需要校准数据；torchao 和 bnb 只做舍入。",
        choices=tuple(EXPORT_BITS),
        older_values={"bitsandbytes": "bnb"},
    )
    export_quantization_dataset: str | None = option(
        None,
        en="Rows that calibrate gptq and awq: a dataset's name, or a file (with `text`, or of any known layout).",
        zh="gptq 和 awq 的校准数据：数据集名称或文件（含 text 字段，或任一已知格式）。",
    )
    export_quantization_nsamples: int = option(128, en="Number of calibration rows.", zh="校准数据的行数。", gt=0)
    export_quantization_maxlen: int = option(
        1024, en="Longest calibration row in tokens.", zh="单条校准数据的最大词元数。", gt=1
    )
    export_legacy_format: bool = option(
        False,
        en="Write .bin files instead of safetensors.",
        zh="保存为 .bin 而不是 safetensors。",
        later="only safetensors files are written: a .bin file can run code when it is opened",
    )
    export_hub_model_id: str | None = option(
        None,
        en="Repository to upload the export to (OWNER/NAME), once it is proven.",
        zh="导出通过验证后上传到的仓库（用户名/仓库名）。",
    )
    export_hub: str | None = option(
        None,
        en="Hub to upload to; unset: huggingface, or modelscope when USE_MODELSCOPE_HUB=1.",
        zh="上传到哪个模型站；不设置则为 huggingface，设置了 USE_MODELSCOPE_HUB=1 时为 modelscope。",
        choices=("huggingface", "modelscope"),
    )
    export_hub_private: bool = option(
        False, en="Make a repository that is created for the upload private.", zh="上传时新建的仓库设为私有。"
    )
