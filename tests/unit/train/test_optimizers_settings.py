"""Every key and every entry of `optim_args` changes what happens, and what does not fit is refused in one message."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch
from optimizer_cases import LR, PLAIN, largest_difference, loss_of, model, needs_package, settings, take_steps

from tunesmith.config.fields.optimizers import OptimizerOptions
from tunesmith.config.optimizers import ADAM_MINI, MUON, OPTIMIZERS, optimizer_options
from tunesmith.config.spec import read_fields
from tunesmith.errors import ConfigError
from tunesmith.train.optim import check_optimizer, make_optimizer, parse_optim_args

CPU = torch.device("cpu")


def _trained(dtype: torch.dtype = torch.float32, steps: int = 6, **given: Any) -> Any:
    """The model after some steps."""
    network = model(dtype)
    take_steps(network, make_optimizer(network, settings(**given)), range(steps))
    return network


GALORE: dict[str, Any] = {"use_galore": True, "galore_rank": 8, "galore_update_interval": 3}
APOLLO: dict[str, Any] = {"use_apollo": True, "apollo_rank": 8, "apollo_update_interval": 3}
LAYERS: dict[str, Any] = {"use_badam": True, "badam_switch_interval": 3}
RATIO: dict[str, Any] = {"use_badam": True, "badam_mode": "ratio", "badam_switch_interval": 3}
# key -> the settings it is changed in, and its other value
FLIPS: dict[str, tuple[dict[str, Any], Any]] = {
    "use_adam_mini": ({}, True),
    "use_muon": ({}, True),
    "use_galore": ({**GALORE, "use_galore": False}, True),
    "galore_target": (GALORE, ("mlp",)),
    "galore_rank": (GALORE, 4),
    "galore_update_interval": (GALORE, 5),
    "galore_scale": (GALORE, 0.5),
    "galore_proj_type": (GALORE, "full"),
    "use_apollo": ({**APOLLO, "use_apollo": False}, True),
    "apollo_target": (APOLLO, ("self_attn",)),
    "apollo_rank": (APOLLO, 4),
    "apollo_update_interval": (APOLLO, 5),
    "apollo_scale": (APOLLO, 1.0),
    "apollo_proj": (APOLLO, "svd"),
    "apollo_proj_type": ({**APOLLO, "apollo_scale_type": "tensor"}, "left"),
    "apollo_scale_type": (APOLLO, "tensor"),
    "apollo_scale_front": (APOLLO, True),
    "use_badam": ({**LAYERS, "use_badam": False}, True),
    "badam_mode": (LAYERS, "ratio"),
    "badam_start_block": (LAYERS, 2),
    "badam_switch_mode": (LAYERS, "descending"),
    "badam_switch_interval": (LAYERS, -1),
    "badam_update_ratio": (RATIO, 0.2),
    "badam_mask_mode": (RATIO, "scatter"),
}
SHOWN_ELSEWHERE = {
    "galore_layerwise": "test_no_gradient_outlives_its_update_inside_the_backward_pass",
    "apollo_layerwise": "test_updates_inside_the_backward_pass_are_the_same_updates",
    "badam_verbose": "test_badam_says_which_layer_trains_as_far_as_it_is_asked",
}
"""Keys that change no weight, and the test that shows what they change."""


def test_every_key_of_the_group_is_flipped() -> None:
    assert FLIPS.keys() | SHOWN_ELSEWHERE.keys() == read_fields([OptimizerOptions]).keys()


@pytest.mark.parametrize("key", FLIPS)
def test_each_key_changes_the_weights(key: str) -> None:
    base, other = FLIPS[key]
    assert largest_difference(_trained(**base), _trained(**{**base, key: other})) > 0


def test_badam_ratio_honours_the_interval() -> None:
    assert largest_difference(_trained(**RATIO), _trained(**{**RATIO, "badam_switch_interval": None})) > 0


# entry of optim_args -> values that differ from every default; each is tried alone
ENTRIES: dict[str, str] = {
    "amsgrad": "true",
    "clip_threshold": "0.1",
    "decay_rate": "-0.5",
    "beta1": "0.5",
    "scale_parameter": "true",
    "momentum": "0.5",
    "dampening": "0.5",
    "nesterov": "true",
    "lr_decay": "0.5",
    "eps": "0.1",
    "initial_accumulator_value": "1",
    "alpha": "0.5",
    "centered": "true",
    "min_8bit_size": "1",
    "beta3": "0.5",
    "t_alpha": "3",
    "t_beta3": "3",
    "block_size": "64",
    "bf16_stochastic_round": "true",
    "rank": "4",
    "update_proj_gap": "2",
    "scale": "3",
    "proj_type": "left",
    "proj": "svd",
    "scale_type": "tensor",
    "r": "1",
    "weight_lr_power": "0.5",
    "silent_sgd_phase": "false",
    "decouple_lr": "true",
    "max_lr": "0.01",
    "kahan_sum": "false",
    "alpha_init": "0.5",
    "lamb": "0.5",
    "gamma": "0.5",
    "grokking_signal_decay_rate": "0.5",
    "gradient_clipping": "0.01",
    "ns_steps": "2",
    "adjust_lr_fn": "original",
}
# what an entry needs beside it to have an effect
BESIDE: dict[tuple[str, str], str] = {
    ("sgd", "nesterov"): "momentum=0.9",
    ("sgd", "dampening"): "momentum=0.9",
    ("stable_adamw", "max_lr"): "decouple_lr=true",
    ("apollo_adamw", "proj_type"): "scale_type=tensor",
    ("apollo_adamw_layerwise", "proj_type"): "scale_type=tensor",
}
IN_BF16 = {"bf16_stochastic_round", "kahan_sum"}
WITHOUT_EFFECT_HERE = {
    "min_8bit_size": "32-bit states have no smallest size",
    "grokking_signal_decay_rate": "the signal it decays is the gap between two losses, which the package is not told",
}


def _has_effect(name: str, entry: str) -> bool:
    if entry == "min_8bit_size":
        return "8bit" in name
    return entry not in WITHOUT_EFFECT_HERE


_CASES = [(name, entry) for name, info in OPTIMIZERS.items() for entry in info.arguments if _has_effect(name, entry)]


@pytest.mark.parametrize(("name", "entry"), _CASES)
def test_each_entry_of_optim_args_changes_the_weights(name: str, entry: str) -> None:
    needs_package(name)
    given = {key: value for key, value in PLAIN[name].items() if key != "optim_args"}
    if name.startswith("schedule_free_radam"):
        given["adam_beta2"] = 0.9  # so that the silent phase of the first steps is over within the test
    beside = BESIDE.get((name, entry), "")
    dtype = torch.bfloat16 if entry in IN_BF16 else torch.float32
    torch.manual_seed(0)
    base = _trained(dtype, optim=name, optim_args=beside or None, weight_decay=0.1, **given)
    torch.manual_seed(0)
    both = ",".join(filter(None, (beside, f"{entry}={ENTRIES[entry]}")))
    other = _trained(dtype, optim=name, optim_args=both, weight_decay=0.1, **given)
    assert largest_difference(base, other) > 0


def test_every_entry_of_optim_args_was_tried() -> None:
    tried = {entry for _, entry in _CASES}
    tried |= MUON.arguments.keys() | WITHOUT_EFFECT_HERE.keys()
    assert tried == ENTRIES.keys()
    assert len(_CASES) >= 80


@pytest.mark.parametrize("entry", MUON.arguments)
def test_each_entry_of_optim_args_reaches_muon(entry: str) -> None:
    value = "false" if entry == "nesterov" else ENTRIES[entry]
    other = _trained(use_muon=True, optim_args=f"{entry}={value}")
    assert largest_difference(_trained(use_muon=True), other) > 0


@pytest.mark.parametrize("key", ["adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "learning_rate"])
@pytest.mark.parametrize(
    "chosen", [GALORE, APOLLO, LAYERS, {"use_adam_mini": True}, {"use_muon": True}, {"optim": "adamw_8bit"}]
)
def test_the_usual_keys_reach_every_kind(key: str, chosen: dict[str, Any]) -> None:
    other = {"adam_beta1": 0.5, "adam_beta2": 0.9, "adam_epsilon": 1e-2, "weight_decay": 0.5, "learning_rate": 1e-4}
    assert largest_difference(_trained(**chosen), _trained(**chosen, **{key: other[key]})) > 0


@pytest.mark.parametrize(
    "chosen", [{}, GALORE, APOLLO, {"use_adam_mini": True}, {"use_muon": True}, {"optim": "adamw_8bit"}]
)
def test_embeddings_may_have_a_learning_rate_of_their_own(chosen: dict[str, Any]) -> None:
    """At 0 they stay where they are while everything else learns."""
    start, network = model(), _trained(**chosen, embedding_learning_rate=0.0)
    still = {n for (n, a), b in zip(start.named_parameters(), network.parameters(), strict=True) if torch.equal(a, b)}
    assert still == {"model.embed_tokens.weight", "lm_head.weight"}


def test_parameters_may_be_given_a_learning_rate_from_outside() -> None:
    """As a stage does for a head of its own."""
    network = model()
    head = list(network.lm_head.parameters())
    optimizer = make_optimizer(network, settings(optim="adamw_torch"), own_rates=[(head, 10 * LR)])
    rates = {id(p): group["peak_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(head[0])] == 10 * LR
    assert set(rates.values()) == {LR, 10 * LR}
    assert len(rates) == len(list(network.parameters()))


@pytest.mark.parametrize(
    "chosen",
    [
        {"optim": "sgd"},
        GALORE,
        {**GALORE, "optim": "adamw_8bit"},
        {**GALORE, "optim": "adafactor"},
        APOLLO,
        {**LAYERS, "optim": "sgd"},
        {"use_muon": True},
    ],
)
def test_weight_decay_spares_what_has_one_dimension(chosen: dict[str, Any]) -> None:
    """Under gradients of zero only the decay moves anything."""
    network, start = model(), model()
    optimizer = make_optimizer(network, settings(**chosen, weight_decay=0.5))
    in_reach = [name for name, p in network.named_parameters() if p.requires_grad]  # BAdam: the first block
    for _ in range(2):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step()
    moved = {
        name
        for (name, a), p in zip(start.named_parameters(), network.parameters(), strict=True)
        if not torch.equal(a, p)
    }
    assert moved == {name for name in in_reach if network.get_parameter(name).ndim == 2}
    assert len(moved) >= 7


def test_badam_says_which_layer_trains_as_far_as_it_is_asked() -> None:
    said: dict[int, list[str]] = {}
    for verbose in (0, 1, 2):
        network, lines = model(), said.setdefault(verbose, [])
        optimizer = make_optimizer(network, settings(**LAYERS, badam_verbose=verbose), lines.append)
        take_steps(network, optimizer, range(4))
    told = {verbose: [line for line in lines if not line.startswith("note")] for verbose, lines in said.items()}
    assert told[0] == []
    assert [line for line in told[1] if "model.layers.0." in line] == ["BAdam trains model.layers.0. from step 1 on"]
    assert "  model.layers.0.self_attn.q_proj.weight" in told[2]
    assert any("3 tensors" in line or "39 of 42" in line for line in said[0])


def test_a_rank_above_the_width_is_said_and_runs() -> None:
    lines: list[str] = []
    network = model()
    take_steps(network, make_optimizer(network, settings(use_galore=True, galore_rank=128), lines.append), range(2))
    assert any("rank of use_galore is 128" in line and "64" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"use_galore": True, "galore_target": ("self_atn",)}, "Did you mean 'self_attn'"),
        ({"use_apollo": True, "apollo_target": ("mpl",)}, "mlp"),
        ({"optim": "galore_adamw", "optim_target_modules": ("lm_heat",)}, "lm_head"),
        ({"use_apollo": True, "apollo_proj_type": "right"}, "apollo_scale_type: tensor"),
        ({"use_badam": True, "badam_start_block": 3}, "between 0 and 2"),
        ({"optim": "sgd", "optim_args": "momentun=0.9"}, "Did you mean 'momentum'"),
        ({"optim": "sgd", "optim_args": "momentum"}, "key=value"),
        ({"optim": "sgd", "optim_args": "momentum=much"}, "expected a number, at least 0 and below 1"),
        ({"optim": "sgd", "optim_args": "nesterov=true"}, "needs a momentum"),
        ({"optim": "adamw_torch", "optim_args": "betas=0.9"}, "adam_beta1"),
        ({"optim": "adamw_torch", "optim_args": "lr=1"}, "learning_rate"),
        ({"optim": "lion_8bit", "optim_args": "min_8bit_size=1.5"}, "a whole number"),
        ({"use_muon": True, "optim_args": "adjust_lr_fn=none"}, "match_rms_adamw"),
        ({"use_adam_mini": True, "optim_args": "amsgrad=true"}, "It has none"),
    ],
)
def test_what_does_not_fit_is_one_message(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_optimizer(model(), settings(**given))
    assert named in caught.value.render()
    assert caught.value.fix


def test_adam_mini_refuses_heads_that_it_cannot_see() -> None:
    network = model()
    network.config.head_dim = 24
    with pytest.raises(ConfigError, match="does not fall into heads"):
        make_optimizer(network, settings(use_adam_mini=True))


def test_muon_without_matrices_is_refused() -> None:
    network = model()
    network.requires_grad_(False)
    network.model.norm.requires_grad_(True)
    with pytest.raises(ConfigError, match="no matrix of a layer is trained"):
        make_optimizer(network, settings(use_muon=True))


@pytest.mark.parametrize("name", [name for name, info in OPTIMIZERS.items() if info.package])
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = OPTIMIZERS[name]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda p: None if p == info.package else find(p))
    with pytest.raises(ConfigError) as caught:
        check_optimizer(settings(optim=name), CPU, 1)
    assert f"optim: {name}" in caught.value.what
    assert info.package in caught.value.what
    assert caught.value.fix == f"pip install 'tunesmith[{info.extra}]'"


def test_a_package_that_another_one_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda p: None if p == "bitsandbytes" else find(p))
    with pytest.raises(ConfigError, match="bitsandbytes"):
        check_optimizer(settings(use_galore=True), CPU, 1)


@pytest.mark.parametrize("chosen", [{"use_galore": True, "galore_layerwise": True}, LAYERS, RATIO])
def test_what_cannot_run_on_several_processes_is_refused(chosen: dict[str, Any]) -> None:
    assert check_optimizer(settings(**chosen), CPU, 1) == []
    with pytest.raises(ConfigError, match="2 processes"):
        check_optimizer(settings(**chosen), CPU, 2)


def test_paging_on_a_cpu_is_said() -> None:
    (said,) = check_optimizer(settings(optim="paged_adamw_8bit"), CPU, 1)
    assert "nothing to page out on a CPU" in said


def test_an_old_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match=r"torch 2\.9"):
        check_optimizer(settings(use_muon=True), CPU, 1)


def test_optim_args_are_read_in_their_types() -> None:
    config = settings(optim="sgd", optim_args="momentum=0.9, nesterov=True")
    assert optimizer_options(config) == {"momentum": 0.9, "nesterov": True}
    assert parse_optim_args("momentum=0.9") == {"momentum": "0.9"}
    assert ADAM_MINI.arguments == {}


def test_eight_bit_states_are_small_but_for_embeddings() -> None:
    """An eighth of the memory of fp32 moments, plus a scale for every 256 numbers."""
    network = model()
    optimizer: Any = make_optimizer(network, settings(optim="adamw_8bit"))
    take_steps(network, optimizer, range(1))
    states = {p: state for part in optimizer.parts for p, state in part.state.items()}
    assert states[network.lm_head.weight]["state1"].dtype == torch.uint8
    assert states[network.model.embed_tokens.weight]["state1"].dtype == torch.float32


def test_nothing_to_train_is_refused() -> None:
    network = model()
    network.requires_grad_(False)
    with pytest.raises(ConfigError, match="no weight of the model is trained"):
        make_optimizer(network, settings())


def test_a_layer_that_badam_leaves_alone_keeps_no_state() -> None:
    """One block in fp32 with its moments; after a switch the earlier one's are gone."""
    network = model(torch.bfloat16)
    optimizer: Any = make_optimizer(network, replace(settings(**LAYERS), badam_switch_interval=3))
    assert len(optimizer.masters()) == 13
    take_steps(network, optimizer, range(4))
    assert all(name.startswith("model.layers.1.") for name in optimizer.masters())
    assert len(optimizer.base_optimizer.state) == 13
    loss_of(network, 9).backward()
    assert network.model.layers[0].mlp.up_proj.weight.grad is None
