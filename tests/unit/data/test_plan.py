"""The plan is a pure function, and every example is in exactly one place of an epoch."""

from __future__ import annotations

import random

import pytest

from tunesmith.data.plan import PlanSpec, StepPlan, epoch_order, plan_epoch, plan_evaluation

_GENERATOR = random.Random(0)
LENGTHS = [_GENERATOR.randint(1, 90) for _ in range(257)]


def _members(steps: list[StepPlan]) -> list[int]:
    return [i for step in steps for rank in step.micro_batches for micro in rank for i in micro]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("tokens", [1, 100, 10_000])
def test_every_example_is_planned_exactly_once(packing: bool, world_size: int, tokens: int) -> None:
    spec = PlanSpec(12, tokens, world_size, packing, pack_tokens=128 if packing else 0)
    steps = plan_epoch(LENGTHS, spec, epoch=3)
    assert sorted(_members(steps)) == list(range(len(LENGTHS)))
    for step in steps:
        counts = {len(rank) for rank in step.micro_batches}
        assert len(counts) == 1, "ranks must have equally many micro-batches"
        for rank in step.micro_batches:
            for micro in rank:
                assert len(micro) <= 1 or sum(LENGTHS[i] for i in micro) <= tokens


def test_the_split_never_changes_what_a_step_holds() -> None:
    plain = plan_epoch(LENGTHS, PlanSpec(8, 100), 0)
    for spec in (PlanSpec(8, 1), PlanSpec(8, 10_000), PlanSpec(8, 100, world_size=2)):
        other = plan_epoch(LENGTHS, spec, 0)
        assert [sorted(_members([s])) for s in other] == [sorted(_members([s])) for s in plain]


def test_epochs_and_seeds_give_other_orders_and_the_same_one_twice() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert epoch_order(50, 1, 1) == epoch_order(50, 1, 1)


@pytest.mark.parametrize("packing", [False, True])
def test_the_next_epoch_is_planned_in_another_order(packing: bool) -> None:
    spec = PlanSpec(8, 100, packing=packing, pack_tokens=128 if packing else 0)
    assert _members(plan_epoch(LENGTHS, spec, 0)) != _members(plan_epoch(LENGTHS, spec, 1))
    assert _members(plan_epoch(LENGTHS, spec, 1)) == _members(plan_epoch(LENGTHS, spec, 1))


def test_the_order_is_the_same_in_every_version_for_ever() -> None:
    """A resumed run recomputes it: should this change, old checkpoints would continue with other rows."""
    assert epoch_order(10, seed=42, epoch=0) == [4, 5, 3, 7, 2, 0, 8, 9, 1, 6]


def test_without_shuffling_rows_come_in_file_order() -> None:
    steps = plan_epoch([5] * 10, PlanSpec(4, 100, shuffle=False), 0)
    assert [sorted(_members([s])) for s in steps] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_packs_are_filled_best_fit_and_never_overfull() -> None:
    """Lengths 5 3 8 2 7 4 into bins of 10: 8+2, 7+3, 5+4 (by hand)."""
    lengths = [5, 3, 8, 2, 7, 4]
    steps = plan_epoch(lengths, PlanSpec(1, 10, packing=True, pack_tokens=10, shuffle=False), 0)
    packs = sorted(sorted(lengths[i] for i in _members([s])) for s in steps)
    assert packs == [[2, 8], [3, 7], [4, 5]]


def test_packing_fills_most_of_the_room() -> None:
    spec = PlanSpec(1, 128, packing=True, pack_tokens=128)
    assert sum(LENGTHS) / (128 * len(plan_epoch(LENGTHS, spec, 0))) > 0.95


def test_an_evaluation_plan_holds_everything_once_on_any_number_of_ranks() -> None:
    for world in (1, 2, 5):
        plan = plan_evaluation(LENGTHS, 200, world)
        assert sorted(_members([plan])) == list(range(len(LENGTHS)))
        assert len({len(rank) for rank in plan.micro_batches}) == 1
