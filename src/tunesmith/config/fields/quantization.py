"""Loading the base model with fewer bits than it was saved with.

The vocabulary is complete so that existing files are understood; the capability comes later, and using a key says so
(`later`) instead of training an unquantized model in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_LATER = "load the model unquantized and set finetuning_type: lora to save memory"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class QuantizationOptions:
    """Quantized base models (QLoRA and inference)."""

    GROUP: ClassVar[Group] = Group("quantization", "Quantization", "量化")

    quantization_method: str = option(
        "bnb",
        en="Library that quantizes the model while it is loaded.",
        zh="加载模型时所用的量化方法。",
        choices=("bnb", "gptq", "awq", "aqlm", "quanto", "eetq", "hqq", "mxfp4", "fp8"),
        older_values={"bitsandbytes": "bnb"},
        later=_LATER,
    )
    quantization_bit: int | None = option(
        None,
        en="Bits per weight of the quantized model.",
        zh="量化后每个权重的位数。",
        ge=1,
        le=8,
        later=_LATER,
    )
    quantization_type: str = option(
        "nf4",
        en="Four-bit number format of bitsandbytes.",
        zh="bitsandbytes 的 4 位数值格式。",
        choices=("fp4", "nf4"),
        later=_LATER,
    )
    double_quantization: bool = option(
        True,
        en="Quantize the quantization constants as well.",
        zh="对量化常数再做一次量化。",
        later=_LATER,
    )
    quantization_device_map: str | None = option(
        None,
        en="Spread a 4-bit model over several devices for inference.",
        zh="推理时将 4 位模型分布到多个设备上。",
        choices=("auto",),
        later="use one device",
    )
