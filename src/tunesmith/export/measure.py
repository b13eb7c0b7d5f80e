"""What a proof measures: tuned model, merged model, the reloaded folder and the base, each against the first.

One model after the other, so that as few as possible are in memory. A quantized folder is measured against a yardstick
as well: the merged model rounded to nearest at the same bits in the same groups, the plainest quantization there is.
What the folder may differ by follows from that, for every model, instead of from a number that fits one.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.export.destination import BYTES_OF_DTYPE
from tunesmith.export.logits import (
    Difference,
    HeldOutLosses,
    Scored,
    answer_and_score,
    compare,
    greedy_answers,
    held_out_losses,
    rescored,
    share_of_effect,
)
from tunesmith.export.weights import BaseTensors, PackedWeights, compare_packed, misplaced_weights, round_to_nearest
from tunesmith.model.quantize_folder import QuantizedForm

MAX_NEW_TOKENS = 16


@dataclass(frozen=True)
class Losses:
    """Mean loss on the held-out rows, in nats per token: before (tuned), after (folder), base alone, yardstick.

    `yardstick_error` is the standard error of the yardstick's shift.
    """

    before: float
    after: float
    base: float | None = None
    yardstick: float | None = None
    yardstick_error: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What the models of a proof have shown, each against adapter-on-base.

    Attributes:
        merging: the merged model before it is written. difference: the folder. effect: the base alone.
        yardstick: the merged model rounded to nearest, for a quantized folder.
        share: how much of the way from base to tuned model the folder has gone.
        misplaced: tensors of the files that are not the merged ones; `of_base` of them no adapter touches.
    """

    merging: Difference
    difference: Difference
    effect: Difference | None
    yardstick: Difference | None
    share: float | None
    losses: Losses
    num_tensors: int
    misplaced: list[str]
    of_base: list[str]
    packed: PackedWeights | None
    answers: list[str]
    folder_answers: list[str]
    form_problems: list[str]


def measure(config: Config, task: dict[str, Any], folder: Path, stored: str) -> Measured:
    """Load and compare. `config.infer_dtype` is the dtype to compute in, `stored` that of the folder.

    Raises: ModelError when the folder cannot be loaded.
    """
    import torch

    from tunesmith.model.load import load_for_inference, model_folder
    from tunesmith.model.merge import merge_attached
    from tunesmith.model.plain import load_plain_model, load_plain_tokenizer
    from tunesmith.model.verify import weight_files

    device = "cuda" if config.export_device == "auto" and torch.cuda.is_available() else "cpu"
    tokenizer, rows, quantization = load_plain_tokenizer(folder), task["held_out"]["rows"], task["quantization"]
    prompts, stops = [tuple(prompt["ids"]) for prompt in task["prompts"]], tuple(task["stop_ids"])
    tuned = load_for_inference(config, task["adapters"], device)
    reference = answer_and_score(tuned, tokenizer, prompts, stops, MAX_NEW_TOKENS)
    before = held_out_losses(tuned, rows)
    merged = merge_attached(tuned)
    del tuned
    merging = compare(reference, rescored(reference, merged))
    base_tensors = BaseTensors(weight_files(model_folder(config)))
    num_tensors, misplaced = (0, []) if quantization else misplaced_weights(merged, weight_files(folder), stored)
    of_base = _untouched(merged, base_tensors, misplaced)
    if not quantization:
        merged = None
    gc.collect()
    written = load_plain_model(folder, getattr(torch, stored if quantization else config.infer_dtype), device)
    packed = _packed(merged, written, base_tensors, quantization, stored) if quantization else None
    ours = rescored(reference, written)
    after = held_out_losses(written, rows).mean
    folder_answers = greedy_answers(written, tokenizer, prompts, folder_stops(folder) or stops, MAX_NEW_TOKENS)
    form_problems = _form_problems(written, folder, stored, task)
    del written
    gc.collect()
    yardstick, rounded = _yardstick(merged, reference, rows, quantization, stored) if quantization else (None, None)
    del merged
    gc.collect()
    effect, share, base_loss = _base_alone(config, task["adapters"], device, reference, ours, rows)

    def texts(answers: Sequence[tuple[int, ...]]) -> list[str]:
        return [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]

    return Measured(
        merging=merging,
        difference=compare(reference, ours),
        effect=effect,
        yardstick=yardstick,
        share=share,
        losses=_losses(before, after, base_loss, rounded),
        num_tensors=packed.num_compared if packed else num_tensors,
        misplaced=misplaced,
        of_base=of_base,
        packed=packed,
        answers=texts([scored.answer_ids for scored in reference]),
        folder_answers=texts(folder_answers),
        form_problems=form_problems,
    )


def folder_stops(folder: Path) -> tuple[int, ...]:
    """The ids at which `generate` stops in this folder."""
    from tunesmith.model.verify import read_json_object
    from tunesmith.model.wholeness import as_ids

    file = folder / "generation_config.json"
    return tuple(as_ids(read_json_object(file).get("eos_token_id"))) if file.is_file() else ()


def _untouched(merged: Any, base: BaseTensors, names: Sequence[str]) -> list[str]:
    """Those of the merged model's tensors that no adapter has changed."""
    import torch

    expected = merged.state_dict()
    found = ((name, base.get(name)) for name in names)
    return [name for name, tensor in found if tensor is not None and torch.equal(tensor, expected[name].float().cpu())]


def _packed(merged: Any, written: Any, base: BaseTensors, quantization: dict[str, Any], stored: str) -> PackedWeights:
    return compare_packed(merged, written, base, QuantizedForm(**quantization), stored)


def _yardstick(
    merged: Any, reference: Sequence[Scored], rows: Sequence[dict[str, Any]], quantization: dict[str, Any], stored: str
) -> tuple[Difference, HeldOutLosses]:
    """What plain rounding does to answers and loss. The merged model is changed."""
    import torch

    dtype = getattr(torch, stored)
    round_to_nearest(merged, QuantizedForm(**quantization), dtype)
    merged.to(dtype)
    return compare(reference, rescored(reference, merged)), held_out_losses(merged, rows)


def _losses(before: HeldOutLosses, after: float, base: float | None, yardstick: HeldOutLosses | None) -> Losses:
    if yardstick is None:
        return Losses(before.mean, after, base)
    return Losses(before.mean, after, base, yardstick.mean, yardstick.shift_error(before))


def _base_alone(
    config: Config,
    adapters: Sequence[str],
    device: str,
    reference: Sequence[Scored],
    ours: Sequence[Scored],
    rows: Sequence[dict[str, Any]],
) -> tuple[Difference | None, float | None, float | None]:
    """(effect of the adapters, share of it in the folder, loss of the base); None each without adapters."""
    if not adapters:
        return None, None, None
    base = _untuned(config, adapters, device, reference)
    scored = rescored(reference, base)
    return compare(reference, scored), share_of_effect(reference, ours, scored), held_out_losses(base, rows).mean


def _untuned(config: Config, adapters: Sequence[str], device: str, reference: Sequence[Scored]) -> Any:
    """The base alone, with the positions that the adapters were trained with.

    Where the tuned model knows more tokens, it gets rows for them, which nothing has trained.
    """
    from tunesmith.model.load import inference_dtype, load_model
    from tunesmith.model.vocabulary import grow_rows, num_rows_of

    dtype, num_rows = inference_dtype(config), reference[0].logits_TV.shape[-1]
    model = load_model(config, dtype=dtype, device=device, for_training=False, adapters=adapters)
    if num_rows_of(model) < num_rows:
        grow_rows(model, num_rows)
    return model


def _form_problems(model: Any, folder: Path, dtype: str, task: dict[str, Any]) -> list[str]:
    """What is wrong with ties, dtype and packing of what was written."""
    from tunesmith.model.verify import read_model_config, verify_safetensors, weight_files

    problems = []
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and (embedding.weight is head.weight) != task["is_tied"]:
        should = "" if task["is_tied"] else "not "
        problems.append(f"tied head overwritten: input and output embedding should {should}share one tensor")
    claimed = (read_model_config(folder).get("quantization_config") or {}).get("quant_method")
    if task["quantization"]:
        return problems if claimed else [*problems, "not quantized: config.json names no quantization_config"]
    if claimed:
        problems.append(f"quantized base: config.json says that the weights are quantized by {claimed}")
    headers = [verify_safetensors(file) for file in weight_files(folder)]
    counts = Counter(entry["dtype"] for header in headers for name, entry in header.items() if name != "__metadata__")
    wanted = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    if counts.most_common(1)[0][0] != wanted:
        problems.append(f"weights are stored as {dict(counts)}, {wanted} was asked for")
    return problems


def compute_dtype(folder: Path, dtype: str) -> str:
    """float32 when one such copy of the model, and some room to work, fits the free memory; else `dtype`."""
    from tunesmith.model.verify import weight_files

    values = sum(file.stat().st_size for file in weight_files(folder)) / BYTES_OF_DTYPE[dtype]
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return "float32" if values * 4 * 1.3 < free_bytes else dtype


def with_dtype(config: Config, dtype: str) -> Config:
    """The configuration that loads models in `dtype`."""
    return replace(config, infer_dtype=dtype)
