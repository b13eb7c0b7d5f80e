"""Model folders that are published with quantized weights: which of them can be read here, and how.

Some formats stay packed in memory, through the library that they belong to; others are unpacked while they are read.
Which library a folder needs is said before any weight is read. `auto-gptq` and `autoawq` are no longer what
transformers reads GPTQ and AWQ with: both go through `gptqmodel`, which has no ready-made CPU wheels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.model.verify import read_model_config


@dataclass(frozen=True)
class StoredFormat:
    """How a format is read.

    Attributes:
        packages: module name -> what to install, for those that the format needs.
        is_unpacked: read into plain weights, which can be trained in full and merged into.
    """

    packages: tuple[tuple[str, str], ...] = ()
    is_unpacked: bool = False


_GPTQMODEL = ("gptqmodel", "gptqmodel --no-build-isolation")
READABLE: dict[str, StoredFormat] = {
    "bitsandbytes": StoredFormat((("bitsandbytes", "bitsandbytes"),)),
    "torchao": StoredFormat((("torchao", "torchao"),)),
    "gptq": StoredFormat((("optimum", "optimum"), _GPTQMODEL)),
    "awq": StoredFormat((_GPTQMODEL,)),
    "fp8": StoredFormat(is_unpacked=True),
    "mxfp4": StoredFormat(is_unpacked=True),
}
_WHY_NOT = {
    "hqq": "the installed transformers no longer reads HQQ folders",
    "aqlm": "AQLM weights can neither be trained through nor unpacked by the libraries used here",
    "eetq": "EETQ needs a CUDA GPU and kernels that are downloaded as code, which never happens here",
    "quanto": "the quanto library is no longer maintained and does not fit the installed torch",
}


def stored_format(folder: Path) -> str | None:
    """The quantization method that config.json names; None for plain weights. Raises: ModelError as the reader."""
    quantization = read_model_config(folder).get("quantization_config")
    if not isinstance(quantization, dict):
        return None
    method = str(quantization.get("quant_method") or "")
    if not method and (quantization.get("load_in_4bit") or quantization.get("load_in_8bit")):
        return "bitsandbytes"  # as older folders have it
    return method or "an unnamed method"


def require_readable(folder: Path, name: str) -> StoredFormat:
    """How to read a folder in the format `name`. Raises: ModelError when it cannot be read at all."""
    found = READABLE.get(name)
    if found is None:
        raise ModelError(
            f"{folder} holds weights quantized by {name}, which cannot be read here",
            why=_WHY_NOT.get(name, ""),
            fix="use the unquantized model of the same name (and quantization_bit: 4 to save memory), or a folder in "
            f"one of the formats {', '.join(READABLE)}",
        )
    return found


def unpacking_arguments(name: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that unpack the weights of a format while they are read."""
    from transformers import FineGrainedFP8Config, Mxfp4Config  # type: ignore[attr-defined]  # made on access

    makers: dict[str, Any] = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
    return {"quantization_config": makers[name](dequantize=True)}
