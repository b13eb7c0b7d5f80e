"""Loading the base model with fewer bits than it was saved with (QLoRA, and inference in less memory).

Nothing is quantized unless `quantization_bit` is set; the other keys then say how. A folder whose weights are
quantized already needs none of them: what it holds is read from its config.json (`model/stored_formats.py`).
Paper: Dettmers et al., "QLoRA", https://arxiv.org/abs/2305.14314
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

BITS_OF_METHOD: dict[str, tuple[int, ...]] = {"bnb": (4, 8), "hqq": (1, 2, 3, 4, 5, 6, 8), "torchao": (4, 8)}
"""The methods that quantize a model while it is loaded, and the bits that each of them has."""

STORED_ONLY = ("gptq", "awq", "aqlm", "quanto", "eetq", "mxfp4", "fp8")
"""Names of formats in which models are published. Some need calibration rows, some one kind of GPU: not made here."""

_VERBS = ("train", "chat", "webchat", "api", "eval", "export")


@dataclass(frozen=True, init=False, repr=False, eq=False)
class QuantizationOptions:
    """Quantized base models (QLoRA and inference)."""

    GROUP: ClassVar[Group] = Group("quantization", "Quantization", "量化", _VERBS)

    quantization_method: str = option(
        "bnb",
        en="Library that quantizes the model while it is loaded: bnb, hqq or torchao. The others are formats of "
        "published models, which need no setting.",
        zh="加载模型时所用的量化库：bnb、hqq 或 torchao。其余是已发布模型的存储格式，无需设置。",
        choices=(*BITS_OF_METHOD, *STORED_ONLY),
        older_values={"bitsandbytes": "bnb"},
    )
    quantization_bit: int | None = option(
        None,
        en="Bits per weight of the quantized model: 4 or 8 (hqq also 1, 2, 3, 5 and 6). Unset: not quantized.",
        zh="量化后每个权重的位数：4 或 8（hqq 还支持 1、2、3、5、6）。不设置则不量化。",
        ge=1,
        le=8,
    )
    quantization_type: str = option(
        "nf4",
        en="Four-bit number format of bitsandbytes.",
        zh="bitsandbytes 的 4 位数值格式。",
        choices=("fp4", "nf4"),
    )
    double_quantization: bool = option(
        True,
        en="Quantize the quantization constants as well (bitsandbytes, 4 bits).",
        zh="对量化常数再做一次量化（bitsandbytes，4 位）。",
    )
    quantization_device_map: str | None = option(
        None,
        en="Spread a 4-bit model over several devices for inference (bitsandbytes).",
        zh="推理时将 4 位模型分布到多个设备上（bitsandbytes）。",
        choices=("auto",),
    )
