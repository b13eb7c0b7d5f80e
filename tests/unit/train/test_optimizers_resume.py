"""A run that goes on from stored state is the unbroken run, bit for bit, under every optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_cases import PLAIN, SPECIAL, largest_difference, model, needs_package, resumed, settings, take_steps

from tunesmith.config.optimizers import OPTIMIZERS
from tunesmith.errors import ResumeError
from tunesmith.train.optim import make_optimizer, pack_state, settled_weights, unpack_state

CASES = {**{name: {"optim": name, **given} for name, given in PLAIN.items()}, **SPECIAL}


def test_every_optimizer_that_runs_is_tried() -> None:
    assert set(PLAIN) == {name for name, info in OPTIMIZERS.items() if not info.refusal}
    assert len(CASES) >= 50


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_resumed_run_is_the_unbroken_one(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Five steps, through files, five more; an interval of projections, blocks or masks lies across the break."""
    needs_package(name)
    config = settings(**CASES[name])
    unbroken = model(dtype)
    optimizer = make_optimizer(unbroken, config)
    take_steps(unbroken, optimizer, range(5))
    start = model(dtype)
    broken, again = resumed(tmp_path, unbroken, optimizer, config)
    assert largest_difference(unbroken, broken) == 0  # the weights that train, whichever were saved
    take_steps(unbroken, optimizer, range(5, 10))
    torch.manual_seed(5)  # whatever the global generator does, the run must not notice
    take_steps(broken, again, range(5, 10))
    assert largest_difference(unbroken, broken) == 0
    assert largest_difference(unbroken, start) > 0


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("schedule_free_sgd", "badam scattered")])
def test_the_state_is_needed(name: str, tmp_path: Path) -> None:
    """The test above can fail: without the stored state the run goes elsewhere."""
    needs_package(name)
    config = settings(**CASES[name])
    unbroken = model()
    optimizer = make_optimizer(unbroken, config)
    take_steps(unbroken, optimizer, range(5))
    forgetful = model()
    forgetful.load_state_dict(unbroken.state_dict())
    take_steps(unbroken, optimizer, range(5, 10))
    take_steps(forgetful, make_optimizer(forgetful, config), range(5, 10))
    assert largest_difference(unbroken, forgetful) > 0


def test_looking_at_the_average_leaves_no_trace(tmp_path: Path) -> None:
    """A schedule-free run that evaluates at every step is the run that never does."""
    needs_package("schedule_free")
    config = settings(optim="schedule_free_adamw", lr_scheduler_type="constant")
    quiet, looking = model(), model()
    one, other = make_optimizer(quiet, config), make_optimizer(looking, config)
    take_steps(quiet, one, range(6))
    for step in range(6):
        take_steps(looking, other, range(step, step + 1))
        trained = looking.lm_head.weight.detach().clone()
        with settled_weights(other):
            differs = not torch.equal(looking.lm_head.weight, trained)
            assert differs == (step > 0)  # the average of one is that one
    assert largest_difference(quiet, looking) == 0


def test_state_of_a_parameter_that_is_not_trained_now_is_refused_by_name(tmp_path: Path) -> None:
    config = settings(optim="adamw_torch")
    network = model()
    optimizer = make_optimizer(network, config)
    take_steps(network, optimizer, range(1))
    names = {id(p): name for name, p in network.named_parameters()}
    tensors, numbers = pack_state(optimizer, names)
    smaller: Any = model()
    smaller.lm_head.requires_grad_(False)
    with pytest.raises(ResumeError) as caught:
        unpack_state(make_optimizer(smaller, config), smaller.named_parameters(), tensors, numbers)
    assert "lm_head.weight" in caught.value.what
