"""Each key of the training methods changes something that can be seen: what is trained, lost or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.training import history, run_training, weights, write_project

from tunesmith.config.schema import specs

OFT = {"finetuning_type": "oft", "oft_block_size": 16}
FREEZE = {"finetuning_type": "freeze", "freeze_trainable_layers": 1}
LOFTQ, PISSA = {"loftq_init": True}, {"pissa_init": True}
# key -> (settings that make the key count, its other value)
FLIPS: dict[str, tuple[dict[str, Any], Any]] = {
    "lora_rank": ({}, 8),
    "lora_alpha": ({}, 3),
    "lora_dropout": ({}, 0.5),
    "lora_target": ({}, "q_proj"),
    "rank_pattern": ({}, {"q_proj": 2}),
    "alpha_pattern": ({}, {"q_proj": 2}),
    "lora_layers": ({}, "0"),
    "additional_target": ({}, "lm_head"),
    "create_new_adapter": ({"adapter_name_or_path": "earlier"}, True),
    "adapter_name_or_path": ({"create_new_adapter": True}, "earlier"),
    "use_rslora": ({}, True),
    "use_dora": ({}, True),
    "pissa_init": ({}, True),
    "pissa_iter": (PISSA, 0),
    "pissa_convert": (PISSA, True),
    "loftq_init": ({}, True),
    "loftq_bits": (LOFTQ, 8),
    "loftq_iter": (LOFTQ, 3),
    "use_llama_pro": ({"freeze_trainable_layers": 1}, True),
    "oft_rank": ({"finetuning_type": "oft"}, 8),
    "oft_block_size": ({"finetuning_type": "oft"}, 16),
    "oft_target": (OFT, "q_proj"),
    "module_dropout": (OFT, 0.5),
    "freeze_trainable_layers": (FREEZE, -1),
    "freeze_trainable_modules": (FREEZE, "mlp"),
    "freeze_extra_modules": (FREEZE, "norm"),
    "add_tokens": ({}, "who are"),
    "add_special_tokens": ({}, "<a>"),
    "new_special_tokens_config": ({"add_special_tokens": "<a>", "init_special_tokens": "desc_init"}, "tokens.yaml"),
    "init_special_tokens": ({"new_special_tokens_config": "tokens.yaml"}, "desc_init"),
    "resize_vocab": ({"finetuning_type": "full", "model_name_or_path": "short"}, True),
}
ELSEWHERE = {
    "num_expand": "tests/unit/model/test_expand.py",
    "loraplus_lr_ratio": "the tests of optimizers",
    "loraplus_lr_embedding": "the tests of optimizers",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import tiny_model
    from transformers import AutoTokenizer

    folder = write_project(tmp_path_factory.mktemp("flips"), num_rows=8)
    run_training(folder, "earlier", max_steps=2, learning_rate=1e-2)
    (folder / "tokens.yaml").write_text('"<a>": small assistant\n', encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(folder / "short"))
    tokenizer.add_tokens([f"<t{number}>" for number in range(100)])  # more ids than the model has rows
    tokenizer.save_pretrained(folder / "short")
    return folder


def _seen(project: Path, output: str, settings: dict[str, Any]) -> tuple[Any, ...]:
    """What a run of two steps shows: its losses, the tensors it saved, the folders it wrote."""
    files = {"earlier", "short", "tokens.yaml"}
    placed = {k: project / v if isinstance(v, str) and v in files else v for k, v in settings.items()}
    run = run_training(project, output, max_steps=2, overwrite_output_dir=True, **placed)
    tensors = {name: (tuple(tensor.shape), float(tensor.double().sum())) for name, tensor in weights(run).items()}
    return history(run, "loss"), history(run, "grad_norm"), tensors, sorted(p.name for p in run.iterdir() if p.is_dir())


@pytest.mark.parametrize("key", FLIPS)
def test_another_value_shows(project: Path, key: str) -> None:
    settings, other = FLIPS[key]
    before = _seen(project, f"{key}-a", settings)
    assert _seen(project, f"{key}-a", settings) == before  # the comparison is of the key, not of chance
    assert _seen(project, f"{key}-b", {**settings, key: other}) != before


def test_every_key_of_the_methods_was_visited() -> None:
    keys = {name for name, spec in specs().items() if spec.methods or spec.group.name in ("lora", "oft", "freeze")}
    assert len(keys) >= 28
    assert keys - FLIPS.keys() - ELSEWHERE.keys() == set()
