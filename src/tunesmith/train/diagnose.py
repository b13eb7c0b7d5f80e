"""A loss or gradient that is not finite: stop, and say whether rows, weights or precision are to blame.

The update has not been applied when this is noticed, so the weights are those of the step before. The
step's examples are scored again one by one, in the run's precision and in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.data.collate import collate
from tunesmith.data.store import ExampleStore
from tunesmith.errors import TrainingError
from tunesmith.model.scorer import Scorer


class NonFinite(Exception):
    """Raised by the loop at `step` (1-based), with the examples of that step."""

    def __init__(self, step: int, loss: float, grad_norm: float, store: ExampleStore, members: Sequence[int]) -> None:
        super().__init__(f"step {step}: loss {loss}, gradient norm {grad_norm}")
        self.step, self.loss, self.grad_norm = step, loss, grad_norm
        self.store, self.members = store, tuple(members)


@dataclass(frozen=True, slots=True)
class Suspects:
    """What was found: parameters that are not finite; examples that are not finite in the run's precision, in fp32."""

    parameters: tuple[str, ...]
    examples: tuple[int, ...]
    examples_in_fp32: tuple[int, ...]


def find_suspects(scorer: Scorer, store: ExampleStore, members: Sequence[int], device: torch.device) -> Suspects:
    """Look for the cause, by parameters first, then by examples."""
    bad_parameters = tuple(n for n, p in scorer.model.named_parameters() if not bool(torch.isfinite(p).all()))
    bad = tuple(i for i in members if not _is_finite(scorer, store, i, device))
    kept, scorer.compute_dtype = scorer.compute_dtype, torch.float32
    try:
        with _upcast(scorer):
            bad_in_fp32 = tuple(i for i in bad if not _is_finite(scorer, store, i, device))
    finally:
        scorer.compute_dtype = kept
    return Suspects(bad_parameters, bad, bad_in_fp32)


class _upcast:
    """All weights in fp32 inside the block, back in their own dtypes afterwards (exact: widening loses nothing)."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [(p, p.dtype) for p in module.parameters()]

    def __enter__(self) -> None:
        for parameter, _ in self._parameters:
            parameter.data = parameter.data.float()

    def __exit__(self, *_: object) -> None:
        for parameter, dtype in self._parameters:
            parameter.data = parameter.data.to(dtype)


def _is_finite(scorer: Scorer, store: ExampleStore, index: int, device: torch.device) -> bool:
    """Whether the example's loss and its gradient with respect to the trained weights are finite."""
    parameters = [p for p in scorer.parameters() if p.requires_grad]
    scorer.eval()
    scores = scorer(collate(store, [index]).to(device))
    loss = (scores.logp_N * scores.weight_N).sum()
    if not bool(torch.isfinite(loss)):
        return False
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)


def explain(failure: NonFinite, suspects: Suspects, precision_key: str | None) -> TrainingError:
    """The message for the user."""
    store = failure.store
    rows = suspects.examples or failure.members
    listed = ", ".join(str(store.ref(index)) for index in rows[:5]) + (", ..." if len(rows) > 5 else "")
    if suspects.parameters:
        why = f"{len(suspects.parameters)} weight tensors are not finite, first {suspects.parameters[0]}"
        fix = "check the base model (`tunesmith config show` names it); if it is whole, lower `learning_rate`"
    elif suspects.examples and not suspects.examples_in_fp32 and precision_key:
        why = f"these rows are finite in fp32 but not in {precision_key}: the precision overflows"
        fix = f"remove `{precision_key}: true`, or lower `learning_rate`"
    elif suspects.examples:
        why = f"{len(suspects.examples)} of the {len(failure.members)} rows give it even in fp32, with finite weights"
        fix = "look at these rows with `tunesmith data preview`; remove them or lower `learning_rate`"
    else:
        why = "each row of the step is finite alone: the sum of the gradients overflows"
        fix = "lower `learning_rate` or set `max_grad_norm: 1.0`"
    return TrainingError(
        f"step {failure.step}: the loss is {failure.loss:.4g} and the gradient norm {failure.grad_norm:.4g}",
        where=f"rows {listed}",
        why=why,
        fix=fix,
    )
