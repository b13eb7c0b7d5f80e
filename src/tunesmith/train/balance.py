"""The balance loss of a mixture of experts within an optimizer step: count first, then add each micro-batch's part.

The count is a forward pass without gradients over the whole global batch, with the seeds of the pass that follows, so
that dropout and noise send the tokens the same way. Why it is needed is told in `loss/balance.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tunesmith.data.collate import Batch
from tunesmith.loss.balance import ExpertLoad
from tunesmith.model.moe import RouterTap
from tunesmith.train.runtime import Runtime


class ExpertBalance:
    """What the loop holds when `moe_aux_loss_coef` is set.

    Args:
        tap: reads the routers of the model that is trained.
        runtime: adds the counts of all ranks.
    """

    def __init__(self, tap: RouterTap, runtime: Runtime) -> None:
        self._tap, self._runtime = tap, runtime
        self._load: ExpertLoad | None = None
        self._sum = 0.0

    def begin_step(self, scorer: nn.Module, batches: Iterable[Batch]) -> None:
        """Count where the tokens of the global batch go.

        Args:
            batches: this rank's micro-batches, each made when the random generators have been set for it.
        """
        self._tap.open(with_gradients=False)
        self._sum = 0.0
        load: ExpertLoad | None = None
        for batch in batches:
            with torch.no_grad():
                scorer(batch)
            counted = self._tap.count()
            counted = counted if batch.num_tokens else counted.nothing()
            load = counted if load is None else load + counted
        assert load is not None, "a rank without work still has a place-holder batch"
        *assigned, num_tokens = self._runtime.sum([*load.assigned_E.tolist(), load.num_tokens])
        self._tap.open(with_gradients=True)
        self._load = ExpertLoad(torch.tensor(assigned, dtype=torch.float64), num_tokens)

    def part(self, batch: Batch) -> Tensor:
        """What the forward pass of this micro-batch adds to the loss of the step, weighted by the coefficient; ()."""
        assert self._load is not None, "begin_step counts first"
        part = self._tap.loss(self._load) * (1.0 if batch.num_tokens else 0.0)
        self._sum += float(part.detach())
        return part * self._tap.coefficient

    def end_step(self) -> float:
        """The balance loss of the step over all ranks, without its coefficient."""
        self._tap.close()
        return self._runtime.sum([self._sum])[0]
