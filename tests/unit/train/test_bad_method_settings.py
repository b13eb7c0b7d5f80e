"""Settings of the training methods that cannot work: one message, exit code 2, no traceback, no folder filled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_model
from tests.training import arguments, run_training, write_project

from tunesmith.cli.main import main

# settings -> what the message must name; `{adapter}`, `{oft}`, `{loftq}` stand for folders of finished runs
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no such target": ({"lora_target": "q_porj"}, ("q_porj", "Did you mean 'q_proj'?")),
    "no such additional target": ({"additional_target": "lm_haed"}, ("lm_haed", "lm_head")),
    "no such OFT target": ({"finetuning_type": "oft", "oft_target": "q_porj"}, ("oft_target", "'q_proj'")),
    "rank above the width": ({"lora_rank": 64}, ("rank 64", "k_proj", "at most 32")),
    "alpha 0": ({"lora_alpha": 0}, ("lora_alpha", "above 0")),
    "no such method": ({"finetuning_type": "lroa"}, ("finetuning_type", "'lora'")),
    "PiSSA twice": ({"pissa_init": True, "loftq_init": True}, ("pissa_init and loftq_init",)),
    "PiSSA with DoRA": ({"pissa_init": True, "use_dora": True}, ("use_dora",)),
    "PiSSA on a continued adapter": (
        {"pissa_init": True, "adapter_name_or_path": "{adapter}"},
        ("create_new_adapter: true",),
    ),
    "PiSSA on embeddings": ({"pissa_init": True, "lora_target": "q_proj,lm_head"}, ("lm_head", "lora_target: all")),
    "adapter with full": ({"finetuning_type": "full", "adapter_name_or_path": "{adapter}"}, ("finetuning_type: lora",)),
    "OFT adapter continued as LoRA": ({"adapter_name_or_path": "{oft}"}, ("of type oft", "finetuning_type: oft")),
    "LoRA adapter continued as OFT": (
        {"finetuning_type": "oft", "adapter_name_or_path": "{adapter}"},
        ("of type lora", "finetuning_type: lora"),
    ),
    "adapter of another base": (
        {"adapter_name_or_path": "{adapter}", "model_name_or_path": "{wider}"},
        ("does not fit the model", "trained on"),
    ),
    "LoftQ adapter on the original base": (
        {"adapter_name_or_path": "{loftq}", "create_new_adapter": True},
        ("belongs to the base", "loftq_base"),
    ),
    "LLaMA Pro with full": ({"finetuning_type": "full", "use_llama_pro": True}, ("use_llama_pro", "freeze")),
    "LLaMA Pro that does not divide": (
        {"finetuning_type": "freeze", "use_llama_pro": True, "freeze_trainable_layers": 3},
        ("3 groups", "tunesmith expand"),
    ),
    "more layers than there are": (
        {"finetuning_type": "freeze", "freeze_trainable_layers": 9},
        ("freeze_trainable_layers: 9", "2 layers"),
    ),
    "OFT blocks that do not divide": (
        {"finetuning_type": "oft", "oft_block_size": 48},
        ("oft_block_size: 48", "64 inputs"),
    ),
    "OFT by number and by size": (
        {"finetuning_type": "oft", "oft_block_size": 16, "oft_rank": 4},
        ("oft_rank is 4 and oft_block_size is 16",),
    ),
    "no such layer": ({"lora_layers": "0-7"}, ("'0-7'", "2 layers")),
    "no such token file": ({"new_special_tokens_config": "no.yaml"}, ("no.yaml", "no such file")),
    "new tokens on a continued adapter": (
        {"adapter_name_or_path": "{adapter}", "add_tokens": "who are"},
        ("create_new_adapter: true",),
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("bad"), num_rows=8)
    run_training(folder, "adapter", max_steps=1)
    run_training(folder, "oft", max_steps=1, finetuning_type="oft", oft_block_size=16)
    run_training(folder, "loftq", max_steps=1, loftq_init=True)
    tiny_model(folder / "wider")
    config = json.loads((folder / "wider" / "config.json").read_text())
    assert config["hidden_size"] == 64
    _widen(folder / "wider")
    return folder


def _widen(folder: Path) -> None:
    """Another model of the same kind, twice as wide."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(folder)
    config.hidden_size, config.head_dim = 128, 32
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.mark.parametrize("name", CASES)
def test_it_is_named_and_exits_with_2(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings, named = CASES[name]
    folders = {part: str(project / part) for part in ("adapter", "oft", "loftq", "wider")}
    filled = {k: v.format(**folders) if isinstance(v, str) else v for k, v in settings.items()}
    output = name.replace(" ", "-")
    assert main(["train", *arguments(project, output, **filled)]) == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1
    assert "Traceback" not in message
    assert [text for text in named if text not in message] == []
    assert not list((project / output).glob("*.safetensors"))
