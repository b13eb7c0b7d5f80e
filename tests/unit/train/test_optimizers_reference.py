"""Ten steps of every optimizer equal ten steps of its package used directly, on a tiny Llama with real gradients.

For the names of `optim` the reference is what `transformers.Trainer` makes of the same name; for the `use_*` keys it is
the package's class. Both sides run the same operations in the same order, so the weights are compared for equality
where nothing is summed in another order, and to 1e-6 where it is.
"""

from __future__ import annotations

import math
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adam_mini import Adam_mini
from apollo_torch import APOLLOAdamW
from badam import BlockOptimizer, BlockOptimizerRatio
from bitsandbytes.optim import GlobalOptimManager
from galore_torch import GaLoreAdafactor, GaLoreAdamW
from optimizer_cases import (
    LR,
    PLAIN,
    largest_difference,
    loss_of,
    model,
    needs_package,
    rate,
    reference_steps,
    settings,
    take_steps,
)
from transformers import Trainer, TrainingArguments

from tunesmith.train.optim import clip, make_optimizer

STEPS = range(10)
DECAY = 0.1


def _reference_of_trainer(name: str, network: Any, folder: Path, given: dict[str, Any]) -> torch.optim.Optimizer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        optim=name,
        optim_args=given.get("optim_args"),
        optim_target_modules="all-linear" if "optim_target_modules" in given else None,
        learning_rate=LR,
        weight_decay=given["weight_decay"],
        adam_epsilon=given["adam_epsilon"],
        warmup_steps=given.get("warmup_steps", 0),
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
    )
    return Trainer(model=network, args=arguments).create_optimizer()


@pytest.mark.parametrize("name", [name for name in PLAIN if not name.endswith("_layerwise")])
def test_an_optimizer_by_name_is_the_trainers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_package(name)
    low_rank = name.startswith(("galore", "apollo"))
    given = {
        **PLAIN[name],
        # the Trainer gives low-rank groups neither weight_decay nor (all of them) adam_epsilon
        "weight_decay": 0.0 if low_rank else DECAY,
        "adam_epsilon": 1e-6 if low_rank and "8bit" not in name else 1e-8,
    }
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)  # galore-torch's 8-bit class waits for CUDA
    theirs, ours = model(), model()
    reference: Any = _reference_of_trainer(name, theirs, tmp_path, given)
    if low_rank:
        for group in reference.param_groups:
            group["weight_decay"] = 0.0
    if "8bit" in name and low_rank:  # its arguments were ordered for an older bitsandbytes: 100 and True land here
        reference.args.max_unorm, reference.args.skip_zeros = 0.0, False
    if hasattr(reference, "train"):
        reference.train()
    if name.startswith("adamw_torch_") and name.endswith("bit"):
        _steps_with_tensor_rates(theirs, reference)
    else:
        reference_steps(theirs, reference, STEPS)
    _forget_overrides()
    take_steps(ours, make_optimizer(ours, settings(optim=name, **given)), STEPS)
    assert largest_difference(theirs, model()) > 1e-4
    assert largest_difference(theirs, ours) <= 1e-6


def _forget_overrides() -> None:
    """The Trainer tells bitsandbytes by position, for the whole process, which weights have 32-bit states."""
    manager = GlobalOptimManager.get_instance()
    manager.initialize()


def _steps_with_tensor_rates(network: Any, reference: Any) -> None:
    with torch.compiler.set_stance("force_eager"):
        for step in STEPS:
            for group in reference.param_groups:
                group["lr"].fill_(LR * rate(step))
            loss_of(network, step).backward()
            reference.step()
            reference.zero_grad()


def _linear(network: Any) -> list[torch.nn.Parameter]:
    """The weights of the layers' linear modules, in the model's order."""
    ids = {
        id(module.weight)
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    return [p for p in network.parameters() if id(p) in ids]


def _low_rank_groups(network: Any, **options: Any) -> list[dict[str, Any]]:
    chosen = _linear(network)
    ids = {id(p) for p in chosen}
    rest = [p for p in network.parameters() if id(p) not in ids]
    return [
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": DECAY},
        {"params": chosen, "weight_decay": DECAY, **options},
    ]


@pytest.mark.parametrize("proj_type", ["std", "reverse_std", "right", "left", "full"])
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adafactor"])
def test_galore_is_its_package(proj_type: str, optim: str) -> None:
    theirs, ours = model(), model()
    options = {"rank": 8, "update_proj_gap": 4, "scale": 0.5, "proj_type": proj_type}
    groups = _low_rank_groups(theirs, **options)
    reference = (
        GaLoreAdafactor(groups, lr=LR, scale_parameter=False, relative_step=False)
        if optim == "adafactor"
        else GaLoreAdamW(groups, lr=LR, eps=1e-8, no_deprecation_warning=True)
    )
    reference_steps(theirs, reference, STEPS)
    config = settings(
        use_galore=True,
        galore_rank=8,
        galore_update_interval=4,
        galore_scale=0.5,
        galore_proj_type=proj_type,
        optim=optim,
        weight_decay=DECAY,
    )
    take_steps(ours, make_optimizer(ours, config), STEPS)
    assert largest_difference(theirs, model()) > 1e-3
    assert largest_difference(theirs, ours) == 0


@pytest.mark.parametrize("scale_type", ["channel", "tensor"])
@pytest.mark.parametrize("proj", ["random", "svd"])
@pytest.mark.parametrize("front", [False, True])
def test_apollo_is_its_package(scale_type: str, proj: str, front: bool) -> None:
    theirs, ours = model(), model()
    options = {"rank": 8, "update_proj_gap": 4, "scale": 4.0, "proj_type": "std"}
    groups = _low_rank_groups(theirs, **options, proj=proj, scale_type=scale_type)
    reference_steps(theirs, APOLLOAdamW(groups, lr=LR, eps=1e-8, scale_front=front), STEPS)
    config = settings(
        use_apollo=True,
        apollo_rank=8,
        apollo_update_interval=4,
        apollo_scale=4.0,
        apollo_proj=proj,
        apollo_scale_type=scale_type,
        apollo_scale_front=front,
        weight_decay=DECAY,
    )
    take_steps(ours, make_optimizer(ours, config), STEPS)
    assert largest_difference(theirs, model()) > 1e-3
    assert largest_difference(theirs, ours) == 0


@pytest.mark.parametrize("mode", ["ascending", "descending", "fixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_badam_by_layers_is_its_package(mode: str, dtype: torch.dtype) -> None:
    theirs, ours = model(dtype), model(dtype)
    base = torch.optim.AdamW(theirs.parameters(), lr=LR, eps=1e-8, weight_decay=0.0)
    start = 1 if mode == "fixed" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = BlockOptimizer(
            base, list(theirs.named_parameters()), switch_block_every=3, start_block=start, switch_mode=mode, verbose=0
        )
    reference_steps(theirs, reference, STEPS)
    config = settings(
        use_badam=True, badam_switch_interval=3, badam_switch_mode=mode, badam_start_block=start, optim="adamw_torch"
    )
    take_steps(ours, make_optimizer(ours, config), STEPS)
    assert largest_difference(theirs, model(dtype)) > 1e-3
    assert largest_difference(theirs, ours) == 0


@pytest.mark.parametrize(("mask", "interval"), [("adjacent", 4), ("scatter", 100)])
def test_badam_by_ratio_is_its_package(mask: str, interval: int) -> None:
    """Scattered masks are compared within one interval: the package changes them parameter by parameter at its end."""
    theirs, ours = model(), model()
    config = settings(
        use_badam=True, badam_mode="ratio", badam_mask_mode=mask, badam_update_ratio=0.3, badam_switch_interval=interval
    )
    optimizer: Any = make_optimizer(ours, config)
    take_steps(ours, optimizer, STEPS)
    torch.manual_seed(config.seed)  # the seeds of its masks
    reference = BlockOptimizerRatio(
        [{"params": list(theirs.parameters())}],
        list(theirs.named_parameters()),
        update_ratio=0.3,
        switch_every=interval,
        mask_mode=mask,
        lr=LR,
        eps=1e-8,
        preserve_threshold=0,  # what it does to small tensors is to add 1e-9 before it masks them all the same
    )
    reference_steps(theirs, reference, STEPS)
    assert largest_difference(theirs, model()) > 1e-3
    assert largest_difference(theirs, ours) == 0


def test_adam_mini_is_its_package() -> None:
    theirs, ours = model(), model()
    reference = Adam_mini(
        theirs.named_parameters(), lr=LR, weight_decay=DECAY, dim=64, n_heads=4, n_kv_heads=2, verbose=False
    )
    reference_steps(theirs, reference, STEPS)
    take_steps(ours, make_optimizer(ours, settings(use_adam_mini=True, weight_decay=DECAY)), STEPS)
    assert largest_difference(theirs, model()) > 1e-3
    assert largest_difference(theirs, ours) == 0


def test_adam_mini_counts_heads_by_the_models_word() -> None:
    """With head_dim 32 and width 64, four heads of queries are four blocks; the package alone would see eight."""
    network = model(head_dim=32)
    optimizer: Any = make_optimizer(network, settings(use_adam_mini=True))
    take_steps(network, optimizer, range(1))
    query = network.model.layers[0].self_attn.q_proj.weight
    assert optimizer.state[query]["vmean"].numel() == 4
    key = network.model.layers[0].self_attn.k_proj.weight
    assert optimizer.state[key]["vmean"].numel() == 2


def _muon_parts(network: Any) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    matrices = _linear(network)
    ids = {id(p) for p in matrices}
    rest = [p for p in network.parameters() if id(p) not in ids]
    return matrices, [p for p in rest if p.ndim >= 2], [p for p in rest if p.ndim < 2]


def test_muon_is_torchs_with_adamw_for_the_rest() -> None:
    theirs, ours = model(), model()
    matrices, tables, vectors = _muon_parts(theirs)
    assert len(matrices) == 21
    assert len(tables) == 2
    muon = torch.optim.Muon(matrices, lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": tables, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}], lr=LR, fused=True
    )
    for step in STEPS:
        for group in [*muon.param_groups, *adamw.param_groups]:
            group["lr"] = LR * rate(step)
        loss_of(theirs, step).backward()
        muon.step()
        adamw.step()
        theirs.zero_grad()
    take_steps(ours, make_optimizer(ours, settings(use_muon=True, weight_decay=DECAY)), STEPS)
    assert largest_difference(theirs, model()) > 1e-3
    assert largest_difference(theirs, ours) == 0


def test_muon_moves_each_matrix_as_far_as_adamw_would() -> None:
    """The scaling of arXiv 2502.16982: an update's root mean square is 0.2 times the learning rate, in every shape."""
    network, start = model(), model()
    optimizer = make_optimizer(network, settings(use_muon=True))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    pairs = zip(_linear(start), _linear(network), strict=True)
    moved = [float((after - before).detach().square().mean().sqrt()) / LR for before, after in pairs]
    assert len(moved) == 21
    assert all(0.14 < size < 0.24 for size in moved), moved  # five Newton-Schulz steps leave 0.7 to 1.2 of each


def test_loraplus_gives_b_its_ratio_and_embeddings_their_own_rate() -> None:
    """The groups of the public tool: A at the learning rate, B and vectors at the ratio, B of embeddings at its own."""
    from peft import LoraConfig, get_peft_model

    def adapted() -> Any:
        random.seed(0)
        torch.manual_seed(0)
        return get_peft_model(
            model(), LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], use_dora=False, bias="all")
        )

    theirs, ours = adapted(), adapted()
    named = [(n, p) for n, p in theirs.named_parameters() if p.requires_grad]
    wanted = {
        "a": [p for n, p in named if "lora_A" in n or "lora_embedding_A" in n],
        "b": [p for n, p in named if "lora_B" in n],
        "vectors": [p for n, p in named if p.ndim == 1],
        "embedding": [p for n, p in named if "lora_embedding_B" in n],
    }
    assert sum(map(len, wanted.values())) == len(named)
    assert all(wanted.values())
    rates = {"a": LR, "b": 16 * LR, "vectors": 16 * LR, "embedding": 3e-5}
    reference = torch.optim.AdamW(
        [
            {"params": params, "lr": rates[kind], "weight_decay": 0.0 if kind == "vectors" else DECAY}
            for kind, params in wanted.items()
        ]
    )
    config = settings(
        finetuning_type="lora",
        loraplus_lr_ratio=16.0,
        loraplus_lr_embedding=3e-5,
        weight_decay=DECAY,
        optim="adamw_torch",
    )
    optimizer = make_optimizer(ours, config)
    for step in STEPS:
        for group, kind in zip(reference.param_groups, wanted, strict=True):
            group["lr"] = rates[kind] * rate(step)
        loss_of(theirs, step).backward()
        reference.step()
        reference.zero_grad()
    take_steps(ours, optimizer, STEPS)
    assert largest_difference(theirs, adapted()) > 1e-3
    assert largest_difference(theirs, ours) == 0


@pytest.mark.parametrize(
    "given", [{"use_galore": True}, {"use_apollo": True}, {"use_galore": True, "optim": "adafactor"}]
)
@pytest.mark.parametrize("parts", [1, 3])
def test_updates_inside_the_backward_pass_are_the_same_updates(given: dict[str, Any], parts: int) -> None:
    """Bit for bit, with one micro-batch or three in a step; the norm that is reported is the norm of all gradients."""
    kind = "galore" if "use_galore" in given else "apollo"
    given = {**given, f"{kind}_rank": 8, f"{kind}_update_interval": 3, "weight_decay": DECAY}
    usual, inside = model(), model()
    norms = take_steps(usual, make_optimizer(usual, settings(**given)), STEPS, parts=parts)
    optimizer = make_optimizer(inside, settings(**given, **{f"{kind}_layerwise": True}))
    norms_inside = take_steps(inside, optimizer, STEPS, parts=parts)
    assert largest_difference(usual, inside) == 0
    assert norms_inside == pytest.approx(norms, rel=1e-6)


def test_a_gradient_that_is_not_finite_moves_nothing_inside_the_backward_pass() -> None:
    network, start = model(), model()
    optimizer = make_optimizer(network, settings(use_galore=True, galore_layerwise=True))
    network.model.embed_tokens.weight.register_hook(lambda gradient: gradient * math.nan)
    (norm,) = take_steps(network, optimizer, range(1))
    assert math.isnan(norm)
    assert torch.equal(network.model.embed_tokens.weight, start.model.embed_tokens.weight)


def test_no_gradient_outlives_its_update_inside_the_backward_pass() -> None:
    """What layer-wise updates are for: one gradient at a time instead of all."""
    network = model()
    optimizer: Any = make_optimizer(network, settings(use_galore=True, galore_layerwise=True))
    alive: list[int] = []
    for part in optimizer.parts:
        inner = part.step

        def counted(inner: Any = inner) -> None:
            alive.append(sum(p.grad is not None for p in network.parameters()))
            inner()

        part.step = counted
    take_steps(network, optimizer, range(1))
    assert len(alive) == len(list(network.parameters()))
    assert set(alive) == {1}


def test_sparse_gradients_are_clipped_like_dense_ones() -> None:
    """With every weight in the mask, norm and clipped gradients are those of the dense ones."""
    dense, sparse = model(), model()
    optimizer = make_optimizer(sparse, settings(use_badam=True, badam_mode="ratio", badam_update_ratio=1.0))
    for name, parameter in dense.named_parameters():
        parameter.requires_grad_("embed_tokens" not in name and "lm_head" not in name)
    plain = make_optimizer(dense, settings(optim="sgd"))
    norms = []
    for network, trainer in ((dense, plain), (sparse, optimizer)):
        loss_of(network, 0).backward()
        norms.append(clip(trainer, list(network.parameters()), 0.05))
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)
    assert norms[0] > 0.1
    pairs = [(a.grad, b.grad) for a, b in zip(dense.parameters(), sparse.parameters(), strict=True) if a.requires_grad]
    assert len(pairs) == 40
    assert all(b.is_sparse and torch.allclose(a, b.to_dense(), rtol=1e-5, atol=1e-9) for a, b in pairs)
