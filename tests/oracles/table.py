"""The table of oracle differences: a registry of checks, each of which computes one row.

A row says how far a loss is from its oracle: the largest difference of values and of gradients, over several seeds,
both in float64; and how far the same loss in fp32 is from the oracle in float64. To add a row, write a function that
returns a `Row` and give it to `check`. `python -m tests.oracles` prints them all, computed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SEEDS = range(6)
TOLERANCE = 1e-6
"""In float64 both sides keep 15 digits; 1e-6 leaves room only for constants that an oracle forms in fp32."""
SINGLE_TOLERANCE = 2e-6
"""fp32 against float64, relative to 1 + the largest number: some ten roundings of 6e-8 each."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `single`: fp32 against the oracle, relative, values and gradients; None: not computed."""

    loss: str
    oracle: str
    value: float
    gradient: float
    single: float | None = None


Check = Callable[[], Row]
CHECKS: dict[str, Check] = {}


def check(name: str, function: Check) -> None:
    """Add a row to the table. Raises: ValueError for a name that is taken."""
    if name in CHECKS:
        raise ValueError(f"check '{name}' exists already")
    CHECKS[name] = function


Function = Callable[..., Tensor]


def compare(
    loss: str,
    oracle: str,
    ours: Function,
    theirs: Function,
    draw: Callable[[torch.Generator], Sequence[Tensor]],
    seeds: Iterable[int] = SEEDS,
) -> Row:
    """The row of two functions of the same tensors.

    `draw` makes the inputs from a seeded generator; floating ones are made leaves. Results may be a number or a
    vector: its elements are added up with random factors before the backward pass, so that an exchange of two
    elements shows.
    """
    value = gradient = single = 0.0
    for seed in seeds:
        inputs = draw(torch.Generator().manual_seed(seed))
        mine, mine_gradients = _evaluate(ours, inputs, torch.float64, seed)
        reference, reference_gradients = _evaluate(theirs, inputs, torch.float64, seed)
        assert mine.shape == reference.shape, f"{loss}: {mine.shape} and {reference.shape}"
        value = max(value, _largest(mine - reference))
        gradient = max(gradient, _largest(mine_gradients - reference_gradients))
        rough, rough_gradients = _evaluate(ours, inputs, torch.float32, seed)
        for found, exact in ((rough, reference), (rough_gradients, reference_gradients)):
            single = max(single, _largest(found.double() - exact) / (1 + _largest(exact)))
    return Row(loss, oracle, value, gradient, single)


def _evaluate(function: Function, inputs: Sequence[Tensor], dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """The function's value, and its gradients with respect to all floating inputs, end to end."""
    leaves = [
        tensor.to(dtype).clone().requires_grad_() if tensor.is_floating_point() else tensor.clone() for tensor in inputs
    ]
    result = function(*leaves)
    assert torch.isfinite(result).all(), "the function is not finite"
    factors = torch.rand(result.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    floating = [leaf for leaf in leaves if leaf.requires_grad]
    if not result.requires_grad:  # by design: rewards and advantages are numbers
        return result, torch.zeros(1, dtype=dtype)
    gradients = torch.autograd.grad((result * factors.to(result.dtype)).sum(), floating, allow_unused=True)
    flat = [
        torch.zeros_like(leaf).flatten() if found is None else found.flatten()
        for leaf, found in zip(floating, gradients, strict=True)
    ]
    return result.detach(), torch.cat(flat)


def _largest(tensor: Tensor) -> float:
    assert not torch.isnan(tensor).any(), "a difference is not a number"
    return float(tensor.abs().max()) if tensor.numel() else 0.0


START, END = "<!-- oracle table: start -->", "<!-- oracle table: end -->"


def rewrite(page: str, rows: Sequence[Row]) -> str:
    """The page with the table between its two marks renewed. Raises: ValueError when the marks are missing."""
    before, _, rest = page.partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no '{START}' and '{END}'")
    return f"{before}{START}\n{markdown(rows)}\n{END}{after}"


def first_cells(row: Row) -> str:
    """How the row begins in a page: what stays the same from machine to machine."""
    return f"| {row.loss} | {row.oracle} |"


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    lines = [
        "| loss | oracle | max value difference | max gradient difference | fp32, relative |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        single = "" if row.single is None else f"{row.single:.0e}"
        lines.append(f"{first_cells(row)} {row.value:.0e} | {row.gradient:.0e} | {single} |")
    return "\n".join(lines)
