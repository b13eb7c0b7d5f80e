"""Write the merged model with its tokenizer, template and generation settings; quantized, when that is asked for.

A quantized export goes through a plain one: the merged model is written beside the destination, read again by the
library that quantizes, and removed. So every library sees what it expects, a folder, and the plain path has no branch.
"""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.errors import ExportError
from tunesmith.export.calibration import Calibration
from tunesmith.infer.locate import Located
from tunesmith.model.quantize_folder import QuantizedForm
from tunesmith.render import Renderer

PLAIN_PART = "plain.part"


@dataclass(frozen=True)
class Quantizing:
    """How the folder is quantized, and on what the method is calibrated (only GPTQ and AWQ are)."""

    form: QuantizedForm
    calibration: Calibration | None


def write_export(
    config: Config,
    located: Located,
    renderer: Renderer,
    chat_template: str | None,
    part: Path,
    quantizing: Quantizing | None,
) -> tuple[bool, QuantizedForm | None]:
    """Write model and tokenizer to `part`. All memory of the model is given back, since the proof loads it again.

    Returns:
        Whether the embeddings share one tensor there, and the form that the weights have got, group size settled.

    Raises: ExportError when the disk is full.
    """
    from tunesmith.model.quantize_folder import quantize_folder, settled_form

    target = part if quantizing is None else part / PLAIN_PART
    form = None
    with _reporting_full_disk(part):
        model = _merged(config, located)
        _settle_generation(model, renderer)
        is_tied = bool(model.config.get_text_config().tie_word_embeddings)
        if quantizing is not None:
            form = settled_form(quantizing.form, model)
        _save(model, renderer, chat_template, target, config.export_size)
        del model
        gc.collect()
        if form is not None and quantizing is not None:
            rows = quantizing.calibration.rows if quantizing.calibration else []
            quantize_folder(target, part, form, rows, config)
            _copy_settings(target, part)
            shutil.rmtree(target)
        _copy_value_head(located, part)
        _write_positions(config, located, part)
    return is_tied, form


def _save(model: Any, renderer: Renderer, chat_template: str | None, target: Path, size_gb: float) -> None:
    from tunesmith.model.quiet import quiet_transformers

    tokenizer = renderer.tokenizer
    own_template, tokenizer.chat_template = tokenizer.chat_template, chat_template
    try:
        with quiet_transformers():
            model.save_pretrained(target, max_shard_size=f"{size_gb}GB")
            tokenizer.save_pretrained(target)
    finally:
        tokenizer.chat_template = own_template


def _copy_settings(source: Path, target: Path) -> None:
    """Tokenizer, template and generation settings as they were written, whatever the library has made of them."""
    for path in source.iterdir():
        if path.suffix != ".safetensors" and not path.name.endswith(".index.json") and path.name != "config.json":
            shutil.copyfile(path, target / path.name)


def _write_positions(config: Config, located: Located, part: Path) -> None:
    from tunesmith.model.load import model_options

    rope, _ = model_options(config, for_training=False, adapters=located.adapters)
    if rope.scaling is not None:  # config.json holds it; this says that it is not to be applied once more
        rope.scaling.write(part)


@contextmanager
def _reporting_full_disk(part: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors does not report a full disk as an OSError
        raise ExportError(
            f"writing to {part.parent} failed: {getattr(error, 'strerror', None) or error}",
            why="The disk may be full. What had been written is removed; an earlier export is untouched.",
            fix="Free some space, or set export_dir to another disk.",
        ) from error


def _copy_value_head(located: Located, part: Path) -> None:
    """What makes a reward model one: the value head beside the adapter or model that is exported."""
    from tunesmith.model.value_head import VALUE_HEAD

    head = Path(located.adapters[-1] if located.adapters else located.model) / VALUE_HEAD
    if head.is_file():
        shutil.copyfile(head, part / VALUE_HEAD)
        line = f"{VALUE_HEAD} goes with it: the export is a whole reward model (reward_model_type: full)"
        print(line, file=sys.stderr, flush=True)


def _merged(config: Config, located: Located) -> Any:
    """The merged model in the dtype of the export.

    Each weight is rounded once: one adapter is added to weights in that dtype (the sum itself is taken in float32).
    Several adapters, or a base in another dtype, are brought together in float32 first.
    """
    import torch

    from tunesmith.model.adapters import merge_adapters
    from tunesmith.model.load import DTYPES, inference_dtype, load_model

    dtype = DTYPES[config.infer_dtype]
    uses_gpu = config.export_device == "auto" and torch.cuda.is_available()
    base_dtype = inference_dtype(replace(config, infer_dtype="auto"))
    while_merging = dtype if len(located.adapters) <= 1 and base_dtype == dtype else torch.float32
    device = "cuda" if uses_gpu else "cpu"
    model = load_model(config, dtype=while_merging, device=device, for_training=False, adapters=located.adapters)
    return merge_adapters(model, located.adapters).to(dtype)


def _settle_generation(model: Any, renderer: Renderer) -> None:
    """Make the folder stop where the renderer stops, for everybody who calls `generate` on it."""
    settings = model.generation_config
    stops = list(renderer.stop_ids)
    settings.eos_token_id = stops if len(stops) > 1 else stops[0]
    settings.pad_token_id = renderer.tokenizer.pad_token_id
    if any(value is not None for value in (settings.temperature, settings.top_p, settings.top_k)):
        settings.do_sample = True  # sampling values beside do_sample: false are refused when saving
