"""Whether a run keeps the states of its frozen layers, and the states of all its examples."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tunesmith.config import Config
from tunesmith.data.collate import collate
from tunesmith.data.plan import plan_evaluation
from tunesmith.data.store import ExampleStore
from tunesmith.errors import ConfigError
from tunesmith.loss.scores import Want
from tunesmith.model.evaluating import evaluating
from tunesmith.model.scorer import RELATIVE_TOLERANCE, Scorer
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Setup

MOST_BYTES = 2e9
"""What the states may take unless `cache_frozen_layers: true` asks for them. A fixed figure, not a share of the memory
that is free: a resumed run has to decide as the first one did."""


def with_frozen_states(setup: Setup, store: ExampleStore, num_epochs: int, *, learns_from_rows: bool) -> ExampleStore:
    """The examples with the states that the frozen layers give them, where that saves work; else as they are.

    Args:
        num_epochs: how often the run goes over them.
        learns_from_rows: the stage takes its steps on these examples, not on answers that it makes.

    Raises:
        ConfigError: `cache_frozen_layers: true`, where it cannot be.
    """
    config, scorer, runtime, say = setup.config, setup.scorer, setup.runtime, setup.say
    if config.cache_frozen_layers is False:
        return store
    num_layers, num_all = scorer.num_frozen_layers(), scorer.num_layers
    if obstacle := _obstacle(config, runtime, num_layers, learns_from_rows):
        if config.cache_frozen_layers:
            raise ConfigError(
                f"`cache_frozen_layers: true` is not possible here: {obstacle}", fix="remove cache_frozen_layers"
            )
        return store
    if num_epochs < 2 and not config.cache_frozen_layers:
        return store
    shortest = [int(store.lengths.argmin())]
    states_1D = _states(scorer, store, shortest, num_layers, runtime)[:1]
    num_bytes = store.num_tokens * states_1D.numel() * states_1D.element_size()
    if num_bytes > MOST_BYTES and not config.cache_frozen_layers:
        say(
            f"note: the first {num_layers} of {num_all} layers are frozen; keeping their states would take "
            f"{num_bytes / 1e9:.1f} GB: cache_frozen_layers: true does it"
        )
        return store
    micro_batches = plan_evaluation(store.lengths.tolist(), setup.row_tokens, 1).micro_batches[0]
    states_TD = torch.empty(store.num_tokens, states_1D.shape[1], dtype=states_1D.dtype)
    for micro in micro_batches:
        states_TD[store.tokens_of(micro)] = _states(scorer, store, list(micro), num_layers, runtime).cpu()
    known = replace(store, states=states_TD)
    if not _proven(scorer, store, known, list(micro_batches[0]), num_layers, runtime):
        say("note: this model's code does not let its frozen layers be left out: they are run every time")
        return store
    scorer.num_skipped = num_layers
    say(
        f"the first {num_layers} of {num_all} layers are frozen: run once, their states kept ({num_bytes / 1e9:.2f} GB)"
    )
    return known


def _obstacle(config: Config, runtime: Runtime, num_layers: int, learns_from_rows: bool) -> str:
    """What stands against it, in words; "" for nothing."""
    if not num_layers:
        return "the first layer, or the embedding before it, is trained or draws random numbers"
    if config.neftune_noise_alpha:
        return "neftune_noise_alpha draws noise below the frozen layers"
    if config.moe_aux_loss_coef:
        return "moe_aux_loss_coef looks at the routers of all layers"
    if not learns_from_rows:
        return f"stage {config.stage} learns from answers that it makes anew"
    if runtime.world_size > 1:
        return "several ranks do not share states yet"
    return ""


def _states(scorer: Scorer, store: ExampleStore, members: list[int], num_layers: int, runtime: Runtime) -> Tensor:
    with evaluating(scorer):
        return scorer.states_before(num_layers, collate(store, members).to(runtime.device))


def _proven(
    scorer: Scorer, store: ExampleStore, known: ExampleStore, members: list[int], num_layers: int, runtime: Runtime
) -> bool:
    """Whether the scores from kept states are those of the whole model."""
    with evaluating(scorer):
        whole_N = scorer(collate(store, members).to(runtime.device), Want(correct=False)).logp_N
        scorer.num_skipped = num_layers
        try:
            kept_N = scorer(collate(known, members).to(runtime.device), Want(correct=False)).logp_N
        finally:
            scorer.num_skipped = 0
    allowed = RELATIVE_TOLERANCE[scorer.compute_dtype] * max(1.0, float(whole_N.abs().max()))
    return bool(torch.isclose(whole_N, kept_N, rtol=0, atol=allowed).all())
