"""Schedules as pure functions against transformers' schedulers, step by step."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import SchedulerType, get_scheduler
from transformers.optimization import GreedyLR

from tunesmith.config.schedules import SCHEDULES, WATCHING
from tunesmith.errors import ConfigError
from tunesmith.train.plateau import Greedy, Plateau
from tunesmith.train.schedule import ScheduleSpec, make_schedule, warmup_steps_of

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
    ("inverse_sqrt", {"timescale": 20}),
    ("polynomial", {}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_with_min_lr", {"min_lr": 1e-5}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.2, "num_cycles": 1.5}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-5, "warmup_lr_rate": 0.3, "num_cycles": 0.75}),
    ("warmup_stable_decay", {"num_stable_steps": 14, "num_decay_steps": 29}),
    ("warmup_stable_decay", {"num_decay_steps": 20, "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"num_stable_steps": 9, "num_decay_steps": 9, "decay_type": "linear"}),
    ("warmup_stable_decay", {"num_decay_steps": 20, "warmup_type": "cosine", "decay_type": "1-sqrt"}),
    ("warmup_stable_decay", {"num_decay_steps": 20, "warmup_type": "1-sqrt", "num_cycles": 1.5}),
]


def test_every_schedule_of_transformers_is_known_and_compared() -> None:
    assert set(SCHEDULES) == {kind.value for kind in SchedulerType}
    assert {name for name, _ in CASES} == set(SCHEDULES) - set(WATCHING)
    tried = {name: {key for n, options in CASES if n == name for key in options} for name in SCHEDULES}
    assert all(tried[name] == set(SCHEDULES[name]) for name in SCHEDULES if name not in WATCHING)


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


METRICS = [3.0, 2.5, 2.49999, 2.5, 2.6, 2.4, 2.4, 2.41, 2.42, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3]


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.5, "patience": 1, "cooldown": 1},
        {"factor": 0.5, "patience": 0, "threshold": 0.05, "threshold_mode": "abs"},
        {"factor": 0.5, "patience": 0, "min_lr": 1e-4},
        {"factor": 0.9, "patience": 0, "eps": 2.9e-5},
        {"factor": 0.5, "patience": 0, "mode": "max", "threshold": 0.01},
    ],
)
def test_plateau_equals_torch(options: dict[str, Any]) -> None:
    optimizer = _optimizer()
    reference, ours = ReduceLROnPlateau(optimizer, **options), Plateau(**options)
    for metric in METRICS:
        reference.step(metric)
        ours.observe(metric, LR)
        assert LR * ours.scale == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert ours.scale < 1


GREEDY: list[dict[str, Any]] = [
    {"patience": 1, "min_lr": 1e-5},
    {"patience": 2, "min_lr": 1e-5, "cooldown": 2, "warmup": 1, "factor": 0.5},
    {"patience": 0, "min_lr": 2e-4, "max_lr": 4e-4, "factor": 0.7, "reset_start": 2},
    {"patience": 0, "min_lr": 1e-5, "smooth": True, "window_size": 3, "factor": 0.8},
    {"patience": 0, "min_lr": 1e-5, "mode": "max", "threshold": 0.1, "threshold_mode": "rel"},
    {"patience": 0, "min_lr": 1e-5, "eps": 2.9e-5, "factor": 0.9},
]


@pytest.mark.parametrize("options", GREEDY)
def test_greedy_equals_transformers(options: dict[str, Any]) -> None:
    draw = random.Random(0)
    metrics = [3 - 0.02 * step + draw.uniform(-0.3, 0.3) for step in range(60)] + [2.5] * 40
    optimizer = _optimizer()
    reference, ours = GreedyLR(optimizer, **options), Greedy(**options)
    seen = set()
    for metric in metrics:
        reference.step(metric)
        ours.observe(metric, LR)
        seen.add(round(ours.scale, 9))
        assert LR * ours.scale == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
    assert len(seen) > 2


def test_every_entry_of_the_schedules_that_follow_evaluations_is_tried() -> None:
    tried = {key for options in GREEDY for key in options}
    assert tried == set(SCHEDULES["greedy"])


@pytest.mark.parametrize(
    ("given", "expected"), [((100, 10, 0.0), 10), ((100, 0, 0.05), 5), ((99, 0, 0.1), 10), ((100, 0.2, 0.0), 20)]
)
def test_warmup_in_steps_wins_over_the_ratio(given: tuple, expected: int) -> None:
    assert warmup_steps_of(*given) == expected


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("cosin", {}, "cosine"),
        ("cosine", {"cycles": 2}, "num_cycles"),
        ("cosine", {"num_cycles": "two"}, "a number, above 0"),
        ("cosine_with_restarts", {"num_cycles": 1.5}, "a whole number"),
        ("cosine_with_min_lr", {}, "min_lr_rate"),
        ("cosine_with_min_lr", {"min_lr": 1e-6, "min_lr_rate": 0.1}, "keep one"),
        ("cosine_with_min_lr", {"min_lr_rate": True}, "a number"),
        ("linear", {"num_cycles": 1}, "none"),
        ("polynomial", {"lr_end": 1.0}, "below learning_rate"),
        ("warmup_stable_decay", {"decay_type": "exp"}, "1-sqrt"),
        ("warmup_stable_decay", {"num_decay_steps": -3}, "at least 0"),
        ("greedy", {}, "min_lr"),
        ("greedy", {"min_lr": 2.0}, "min_lr"),
        ("reduce_lr_on_plateau", {"factor": 1.5}, "below 1"),
        ("reduce_lr_on_plateau", {"patience": [3]}, "a whole number"),
    ],
)
def test_a_wrong_name_or_option_is_explained(name: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_schedule(ScheduleSpec(name, TOTAL, WARMUP, LR, options))
    assert named in caught.value.render()
    assert caught.value.fix
