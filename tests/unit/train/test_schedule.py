"""Schedules as pure functions against transformers' schedulers, step by step."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import get_scheduler

from tunesmith.errors import ConfigError
from tunesmith.train.schedule import Plateau, ScheduleSpec, make_schedule, warmup_steps_of

TOTAL, WARMUP, LR = 50, 7, 3e-4
CASES = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {"power": 2.0, "lr_end": 1e-6}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_with_min_lr", {"min_lr": 1e-5}),
    ("warmup_stable_decay", {"num_stable_steps": 14, "num_decay_steps": 29}),
]


def _optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_step_equals_transformers(name: str, options: dict) -> None:
    optimizer = _optimizer()
    warmup = None if name == "constant" else WARMUP
    reference = get_scheduler(name, optimizer, warmup, TOTAL, scheduler_specific_kwargs=dict(options))
    schedule = make_schedule(ScheduleSpec(name, TOTAL, WARMUP, LR, options))
    for step in range(TOTAL):
        assert LR * schedule(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9, abs=1e-15), step
        optimizer.step()
        reference.step()


def test_stable_decay_holds_a_third_and_falls_for_the_rest_by_default() -> None:
    schedule = make_schedule(ScheduleSpec("warmup_stable_decay", 40, 10, LR, {}))
    assert [schedule(step) for step in (0, 10, 19)] == [0.0, 1.0, 1.0]
    assert schedule(30) == pytest.approx(0.5)  # half of the 20 falling steps
    assert schedule(40) == 0.0


def test_plateau_equals_torch() -> None:
    metrics = [3.0, 2.5, 2.49999, 2.5, 2.6, 2.4, 2.4, 2.41, 2.42, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3]
    optimizer = _optimizer()
    options = {"factor": 0.5, "patience": 1, "cooldown": 1}
    reference, ours = ReduceLROnPlateau(optimizer, **options), Plateau(**options)
    for metric in metrics:
        reference.step(metric)
        ours.observe(metric, LR)
        assert LR * ours.scale == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert ours.scale < 0.3


@pytest.mark.parametrize(
    ("given", "expected"), [((100, 10, 0.0), 10), ((100, 0, 0.05), 5), ((99, 0, 0.1), 10), ((100, 0.2, 0.0), 20)]
)
def test_warmup_in_steps_wins_over_the_ratio(given: tuple, expected: int) -> None:
    assert warmup_steps_of(*given) == expected


@pytest.mark.parametrize(("name", "options"), [("cosin", {}), ("cosine", {"cycles": 2}), ("cosine_with_min_lr", {})])
def test_a_wrong_name_or_option_is_explained(name: str, options: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        make_schedule(ScheduleSpec(name, TOTAL, WARMUP, LR, options))
    assert caught.value.fix
