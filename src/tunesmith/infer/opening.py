"""Load what was located into an engine: the model with its adapters, under the names that clients use.

The first name is that of what the configuration means; the base alone has its own name when nothing was merged into
it; `serve_adapters` adds more adapters on the same base. A model that cannot take ragged rows is served one request
at a time, and that is said.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import Config
from tunesmith.errors import ModelError
from tunesmith.infer.batch import base_model
from tunesmith.infer.batching import BatchEngine
from tunesmith.infer.engine import Engine
from tunesmith.infer.hf import HFEngine
from tunesmith.infer.lanes import Lanes
from tunesmith.infer.locate import Located
from tunesmith.infer.machine import give_back_threads, keep_large_tensors_apart
from tunesmith.infer.names import PEFT_NAME, base_name, served_adapters, tuned_name
from tunesmith.infer.request import BatchLimits
from tunesmith.infer.reward import RewardEngine
from tunesmith.infer.sglang import open_sglang
from tunesmith.infer.vllm import open_vllm
from tunesmith.model.load import check_base_model, load_for_inference, model_options
from tunesmith.model.ragged import num_layers_of, ragged_problem
from tunesmith.model.second_adapter import add_adapter
from tunesmith.model.serving_layers import serve_directly
from tunesmith.model.value_head import VALUE_HEAD, load_value_head
from tunesmith.render import Renderer

Opened = tuple[Engine, list[str]]
"""An engine, and what the user should know about it."""


def open_engine(config: Config, located: Located, renderer: Renderer) -> Opened:
    """The engine that `infer_backend` names, with what was located loaded."""
    return BACKENDS[config.infer_backend](config, located, renderer)


def _open_builtin(config: Config, located: Located, renderer: Renderer) -> Opened:
    keep_large_tensors_apart()
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    named = replace(config, adapter_name_or_path=located.adapters)
    notes = check_base_model(named, torch.device(device), for_training=False)
    notes += model_options(config, for_training=False, adapters=located.adapters, device=device)[1]
    model = load_for_inference(config, located.adapters, device)
    names = _names(located)
    for name, folder in served_adapters(config, located, names).items():
        add_adapter(model, folder, name)
        names[name] = name
    model.eval().requires_grad_(False)
    serve_directly(model)
    lanes = Lanes(model, names)
    with lanes.acting(lanes.names[0]):
        problem = ragged_problem(base_model(model))
    give_back_threads()  # engines compute in a thread of their own
    head = Path(located.adapters[-1] if located.adapters else located.model).expanduser() / VALUE_HEAD
    if head.is_file() and config.stage == "rm":
        return _reward_engine(lanes, renderer, head.parent, problem), notes
    if not problem:
        return BatchEngine(lanes, renderer.tokenizer, _limits(model)), notes
    if len(names) > 1:
        first = lanes.names[0]
        notes.append(f"only {first} is served: beside other models it would need the batching engine")
    notes.append(f"requests are answered one at a time: this model cannot be batched, {problem}")
    return HFEngine(model, renderer.tokenizer, lanes.names[:1]), notes


def _reward_engine(lanes: Lanes, renderer: Renderer, folder: Path, problem: str) -> RewardEngine:
    """The engine of a reward model. Raises: ModelError when the model cannot be given ragged rows."""
    if problem:
        raise ModelError(f"a reward model of this kind cannot be served: {problem}")
    parameter = next(lanes.model.parameters())
    hidden_size = base_model(lanes.model).config.get_text_config().hidden_size
    head = load_value_head(folder, hidden_size).to(parameter.device)
    return RewardEngine(lanes, renderer.tokenizer, head, _limits(lanes.model))


def _names(located: Located) -> dict[str, str | None]:
    """Name -> PEFT's name (None: no adapter acts) of what is loaded from the start."""
    tuned, base = tuned_name(located), base_name(located)
    if tuned is None:
        return {base: None}
    # of several adapters the earlier ones are merged, so the base alone is no longer there
    return {tuned: PEFT_NAME, base: None} if len(located.adapters) == 1 else {tuned: PEFT_NAME}


def _limits(model: Any) -> BatchLimits:
    """Sizes for the machine at hand: half of the free memory for running requests, a tenth for beginnings."""
    config = base_model(model).config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    parameter = next(model.parameters())
    token_bytes = 2 * num_layers_of(config) * heads * width * parameter.element_size()
    if parameter.device.type == "cuda":
        free_bytes = torch.cuda.mem_get_info(parameter.device)[0]
        rows = {"answer_rows": 64, "reading_rows": 512}
    else:
        free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        rows = {}
    return BatchLimits(
        max_cache_tokens=max(free_bytes // 2 // token_bytes, 1), prefix_bytes=min(free_bytes // 10, 1 << 30), **rows
    )


BACKENDS: dict[str, Callable[[Config, Located, Renderer], Opened]] = {
    "huggingface": _open_builtin,
    "vllm": open_vllm,
    "sglang": open_sglang,
}
"""`infer_backend` -> what opens it."""
