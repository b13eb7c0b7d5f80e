"""Load a folder as anybody would who has transformers and not Tunesmith: what an export's proof reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ModelError
from tunesmith.model.quiet import quiet_transformers
from tunesmith.model.verify import read_model_config


def load_plain_model(folder: Path, dtype: torch.dtype, device: str = "cpu") -> Any:
    """The model of `folder`, computing in `dtype`.

    Raises: ModelError when tensors are missing, left over or of another shape, or transformers cannot read the folder.
    """
    from transformers import AutoModelForCausalLM

    packed = {"device_map": {"": device}} if read_model_config(folder).get("quantization_config") else {}
    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **packed,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"transformers cannot load {folder}", where=str(error).strip().split("\n")[0]) from error
    model, report = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in report.get(kind, ()))
        if names:
            raise ModelError(f"{folder}: {len(names)} tensors are {kind.removesuffix('_keys')}", where=names[0])
    return model.eval() if packed else model.to(device).eval()


def load_plain_tokenizer(folder: Path) -> Any:
    """The tokenizer of `folder`. Raises: ModelError when transformers cannot read it."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(
            f"transformers cannot load the tokenizer of {folder}", where=str(error).split("\n")[0]
        ) from error
