"""Layers that never change give every token the same hidden state in every epoch: they run once, and it is kept.

Below the lowest layer that is trained nothing moves, so what comes out of it is a function of the row alone. Training
then starts each row at that layer. The states are kept in the dtype in which the layer hands them on, so keeping them
rounds nothing; only the row in which they were computed may be another one, which in bf16 moves their last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

DROPOUT_RATES = ("attention_dropout", "dropout", "activation_dropout", "layerdrop")
"""Names under which modules keep a rate that is not a Dropout module's."""


def num_frozen_layers(decoder: Any, trained: Sequence[nn.Parameter], elsewhere: Sequence[nn.Module]) -> int:
    """How many of the decoder's first layers give the same states whenever they run; 0 where none do.

    Args:
        trained: all parameters that are trained.
        elsewhere: modules that act after the last layer, such as the head: what is trained in them does not count.
    """
    layers = list(getattr(decoder, "layers", ()))
    after = [module for module in (*elsewhere, getattr(decoder, "norm", None)) if module is not None]
    before = {id(p) for p in decoder.parameters()} - {id(p) for part in (*layers, *after) for p in part.parameters()}
    before |= {id(p) for p in decoder.get_input_embeddings().parameters()}  # a tied head is the input matrix
    ids = {id(p) for p in trained}
    if ids & before:
        return 0
    lowest = (place for place, layer in enumerate(layers) if any(id(p) in ids for p in layer.parameters()))
    num_frozen = next(lowest, len(layers))
    above = {id(module) for layer in layers[num_frozen:] for module in layer.modules()}
    if any(_is_random(module) for module in decoder.modules() if id(module) not in above):
        return 0
    return num_frozen


def _is_random(module: nn.Module) -> bool:
    rates = [getattr(module, "p", 0.0)] if "Dropout" in type(module).__name__ else []
    rates += [getattr(module, name, 0.0) for name in DROPOUT_RATES]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


class _Reached(Exception):
    """The states are there; the rest of the pass is not needed."""


def states_before(layer: nn.Module, forward: Callable[[], object]) -> Tensor:
    """The hidden states (T, D) that `layer` is given in a forward pass of its model, which ends there."""
    found: list[Tensor] = []

    def take(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    handle = layer.register_forward_pre_hook(take, with_kwargs=True)
    try:
        forward()
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0].flatten(0, 1)


@contextmanager
def standing_in(layers: Sequence[nn.Module], states_TD: Tensor) -> Iterator[None]:
    """Inside the block every one of `layers` gives these states, whatever it is given."""

    def forward(*_: object, **__: object) -> Tensor:
        return states_TD[None]

    own = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            vars(layer)["forward"] = forward
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            if before is None:
                del vars(layer)["forward"]
            else:
                vars(layer)["forward"] = before
