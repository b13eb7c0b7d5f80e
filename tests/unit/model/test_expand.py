"""An expanded model computes what the original does, in any dtype, until its new blocks are trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from method_models import logits, made_ready, nudge, trainable
from tests.tiny import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from tunesmith.cli.main import main
from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model import expand as module
from tunesmith.model.expand import add_blocks, expand


def expanded(folder: Path, num_expand: int, **settings: Any) -> Path:
    target = folder.with_name(f"{folder.name}-{num_expand}")
    return expand(Config(model_name_or_path=str(folder), output_dir=str(target), num_expand=num_expand, **settings))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("num_expand", [1, 2, 4])
def test_the_logits_are_the_same_to_the_bit(tmp_path: Path, dtype: str, is_tied: bool, num_expand: int) -> None:
    folder = tiny_model(tmp_path / "model", num_layers=4, tie_word_embeddings=is_tied, dtype=dtype)
    target = expanded(folder, num_expand)
    first, second = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (folder, target))
    assert second.dtype == getattr(torch, dtype)
    assert len(second.model.layers) == second.config.num_hidden_layers == 4 + num_expand
    assert torch.equal(logits(first), logits(second))
    assert (second.lm_head.weight is second.model.embed_tokens.weight) is is_tied


def test_copies_follow_the_groups_and_alone_are_silent(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", num_layers=4)
    model = AutoModelForCausalLM.from_pretrained(expanded(folder, 2))
    silent = [
        not layer.self_attn.o_proj.weight.any() and not layer.mlp.down_proj.weight.any() for layer in model.model.layers
    ]
    assert silent == [False, False, True, False, False, True]
    layers = model.model.layers
    assert torch.equal(layers[2].self_attn.q_proj.weight, layers[1].self_attn.q_proj.weight)
    assert torch.equal(layers[5].mlp.up_proj.weight, layers[4].mlp.up_proj.weight)


def test_training_reaches_the_new_blocks_only_and_they_learn(tmp_path: Path) -> None:
    target = expanded(tiny_model(tmp_path / "model", num_layers=4), 2)
    model = made_ready(target, finetuning_type="freeze", use_llama_pro=True, freeze_trainable_layers=2)
    names = trainable(model)
    assert {name.split(".")[2] for name in names} == {"2", "5"}
    before = logits(model)
    model(input_ids=torch.arange(3, 30)[None], labels=torch.arange(3, 30)[None]).loss.backward()
    assert model.model.layers[2].mlp.down_proj.weight.grad.abs().max() > 0
    nudge(model)
    assert (logits(model) - before).abs().max() > 1e-3


def test_what_the_configuration_lists_by_layer_grows_with_it() -> None:
    config = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=2,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    before = logits(model)
    add_blocks(model, 2)
    kinds = model.config.layer_types
    assert kinds == ["full_attention"] * 3 + ["sliding_attention"] * 3
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(6))
    assert torch.equal(logits(model), before)


def test_the_other_files_come_along(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", num_layers=2)
    target = expanded(folder, 1)
    assert AutoTokenizer.from_pretrained(target).get_vocab() == AutoTokenizer.from_pretrained(folder).get_vocab()
    assert {path.name for path in folder.iterdir()} == {path.name for path in target.iterdir()}
    assert json.loads((target / "config.json").read_text())["num_hidden_layers"] == 3


def test_a_number_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        expanded(tiny_model(tmp_path / "model", num_layers=4), 3)
    assert "does not divide the 4 layers" in caught.value.what
    assert caught.value.fix == "choose one of 1, 2, 4"


def test_a_folder_in_use_is_not_replaced(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", num_layers=2)
    (tmp_path / "model-1").mkdir()
    (tmp_path / "model-1" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="holds something already"):
        expanded(folder, 1)
    assert [path.name for path in (tmp_path / "model-1").iterdir()] == ["mine.txt"]


def test_a_block_that_is_not_silent_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path / "model", num_layers=2)
    monkeypatch.setattr(module, "SILENCED", ("o_proj",))
    with pytest.raises(ModelError, match="logits differ"):
        expanded(folder, 1)
    assert not (tmp_path / "model-1").exists()


def test_blocks_of_another_build_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCED", ("o_proj", "fc2"))
    with pytest.raises(ModelError, match="no fc2"):
        expanded(tiny_model(tmp_path / "model", num_layers=2), 1)


def test_the_verb_expands_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, target = tiny_model(tmp_path / "model", num_layers=2), tmp_path / "deep"
    flags = ["--model_name_or_path", str(folder), "--output_dir", str(target), "--num_expand", "2"]
    assert main(["expand", *flags]) == 0
    assert "use_llama_pro=true freeze_trainable_layers=2" in capsys.readouterr().out
    assert main(["expand", *flags[:4]]) == 2
    assert "num_expand" in capsys.readouterr().err
