"""Writing a model that needs no adapter any more.

Only safetensors files are written. Quantizing and uploading come later; asking for either is refused before the model
is loaded, not after the merge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_UNQUANTIZED = "export the merged model unquantized"


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
        None, en="Bits of a quantized export.", zh="量化导出的位数。", ge=1, le=8, later=_UNQUANTIZED
    )
    export_quantization_dataset: str | None = option(
        None, en="Rows that calibrate a quantized export.", zh="量化导出的校准数据。", later=_UNQUANTIZED
    )
    export_quantization_nsamples: int = option(
        128, en="Number of calibration rows.", zh="校准数据的行数。", gt=0, later=_UNQUANTIZED
    )
    export_quantization_maxlen: int = option(
        1024, en="Longest calibration row in tokens.", zh="校准数据的最大词元数。", gt=0, later=_UNQUANTIZED
    )
    export_legacy_format: bool = option(
        False,
        en="Write .bin files instead of safetensors.",
        zh="保存为 .bin 而不是 safetensors。",
        later="only safetensors files are written: a .bin file can run code when it is opened",
    )
    export_hub_model_id: str | None = option(
        None,
        en="Repository to upload the exported model to.",
        zh="导出后上传到的仓库。",
        later="upload export_dir with the hub's own tool",
    )
