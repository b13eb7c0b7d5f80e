"""The model that a run trains: base weights, what is trained of them, and weights put back from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.config import Config
from tunesmith.data.plan import PlanSpec
from tunesmith.data.store import ExampleStore
from tunesmith.model.adapters import restore_adapter
from tunesmith.model.load import load_model
from tunesmith.model.methods.prepare import prepare_trainable
from tunesmith.model.scorer import Scorer, verify_scorer
from tunesmith.model.value_head import VALUE_HEAD, ValueHead, load_value_head


def build_model(
    config: Config,
    dtypes: tuple[torch.dtype, torch.dtype],
    source: Path | None,
    tokenizer: Any = None,
    say: Callable[[str], None] = lambda line: None,
    device: torch.device | str = "cpu",
) -> Any:
    """The base model, or a whole model from the folder `source`, with its trainable parameters chosen.

    Args:
        dtypes: of the frozen and of the trainable weights.
        tokenizer: the run's, where it may have tokens that the base model does not know.
        say: told what was decided without being asked for.
        device: where a base model that adapters stand beside is loaded to: quantized weights are packed there.
    """
    frozen, trainable = dtypes
    if config.trains_adapter:
        base = load_model(config, dtype=frozen, device=device, adapters=config.adapter_name_or_path)
        return prepare_trainable(base, config, trainable, tokenizer, say)
    if source is not None:
        config = _saved_model(config, source)
    # fp32 first: trained weights must not pass through the narrower dtype of the frozen ones
    known = None if source is not None else tokenizer  # a checkpoint has rows for every token, and their numbers
    model = prepare_trainable(load_model(config, dtype=torch.float32), config, trainable, known, say)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(frozen)
    return model


def put_weights_back(model: Any, config: Config, checkpoint: Path) -> None:
    """Give the model the trained weights of a checkpoint of the same run."""
    if config.trains_adapter:
        restore_adapter(model, checkpoint)
        return
    stored = load_model(_saved_model(config, checkpoint), dtype=torch.float32)
    model.load_state_dict(stored.state_dict())


def _saved_model(config: Config, folder: Path) -> Config:
    """The configuration with a model that this run has saved in place of the one that it began with."""
    return replace(config, model_name_or_path=str(folder), train_from_scratch=False)


def build_value_head(model: Any, config: Config) -> ValueHead:
    """The value head that stands beside the adapter or model that training goes on from, else a new one.

    A new one is drawn from the seed (the caller's), small as every new matrix of the model.
    """
    text = model.config.get_text_config()
    for folder in (*reversed(config.adapter_name_or_path), str(config.model_name_or_path)):
        if (Path(folder) / VALUE_HEAD).is_file():
            return load_value_head(Path(folder), text.hidden_size)
    head = ValueHead(text.hidden_size)
    torch.nn.init.normal_(head.summary.weight, std=getattr(text, "initializer_range", 0.02))
    torch.nn.init.zeros_(head.summary.bias)
    return head


def prove_scores(scorer: Scorer, store: ExampleStore, plan: PlanSpec, device: torch.device) -> None:
    """Score two short examples, packed and alone, and compare with the model's own logits. Raises: ModelError."""
    shortest = [int(index) for index in store.lengths.argsort(kind="stable")[:2]]
    if plan.micro_batch_tokens == 1:
        shortest = shortest[:1]  # nothing is ever packed
    elif len(shortest) < 2:
        shortest *= 2
    if not store.weights.any():  # prompts alone: what is learnt is not there yet
        store = replace(store, weights=np.ones_like(store.weights))
    verify_scorer(scorer, store, shortest, device)
