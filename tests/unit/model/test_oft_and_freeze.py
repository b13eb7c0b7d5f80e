"""OFT turns inputs; freeze trains layers counted from either end, or the blocks that an expansion added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from method_models import logits, made_ready, nudge, trainable
from peft import PeftModel
from tests.tiny import tiny_model
from transformers import AutoModelForCausalLM

from tunesmith.errors import ConfigError
from tunesmith.model.save import save_weights

OFT = {"finetuning_type": "oft", "oft_block_size": 16, "lora_target": "all"}
FREEZE = {"finetuning_type": "freeze"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("oft") / "model", num_layers=4)


def layers_of(names: Any) -> set[int]:
    return {int(name.split("layers.")[1].split(".")[0]) for name in names if "layers." in name}


def test_oft_changes_nothing_at_the_start_and_keeps_lengths_later(folder: Path) -> None:
    """An input that is turned keeps its length, block by block."""
    model = made_ready(folder, **OFT)
    plain = logits(AutoModelForCausalLM.from_pretrained(folder).eval())
    assert torch.allclose(logits(model), plain, atol=1e-5)
    nudge(model, 0.01)
    assert (logits(model) - plain).abs().max() > 1e-3
    layer = model.get_base_model().get_submodule("model.layers.0.self_attn.q_proj")
    rows = torch.randn(6, 64, generator=torch.Generator().manual_seed(3))
    turned = layer.oft_R["default"](rows)
    assert not torch.allclose(turned, rows, atol=1e-3)
    lengths = [part.view(6, 4, 16).norm(dim=-1) for part in (rows, turned)]
    assert torch.allclose(*lengths, rtol=1e-3)


def test_an_oft_adapter_is_loaded_again_by_plain_peft(folder: Path, tmp_path: Path) -> None:
    model = made_ready(folder, **OFT)
    nudge(model)
    save_weights(model, tmp_path)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path)).eval()
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("settings", "block_size"),
    [({"oft_block_size": 8}, 8), ({"oft_rank": 4}, 16), ({"oft_block_size": 0, "oft_rank": 2}, 32)],
)
def test_blocks_by_size_or_by_number(folder: Path, settings: dict[str, Any], block_size: int) -> None:
    model = made_ready(folder, finetuning_type="oft", **settings)
    layer = model.get_base_model().get_submodule("model.layers.0.self_attn.q_proj")
    assert layer.oft_block_size["default"] == block_size


def test_oft_target_is_read_and_lora_target_in_its_absence(folder: Path) -> None:
    def targets(**settings: Any) -> set[str]:
        names = trainable(made_ready(folder, finetuning_type="oft", **settings))
        return {name.split(".oft_R")[0].rsplit(".", 1)[-1] for name in names}

    assert targets(oft_target="q_proj") == {"q_proj"}
    assert targets(lora_target="v_proj,up_proj") == {"v_proj", "up_proj"}
    assert targets(oft_target="q_proj", lora_target="v_proj") == {"q_proj"}
    assert len(targets()) == 7


def test_module_dropout_reaches_the_layers(folder: Path) -> None:
    model = made_ready(folder, **OFT, module_dropout=0.5)
    nudge(model)
    model.train()
    torch.manual_seed(0)
    first, second = (model(input_ids=torch.arange(3, 9)[None]).logits for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(logits(model), logits(model))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"oft_block_size": 24}, ("oft_block_size: 24", "64 inputs", "2, 4, 8, 16, 32, 64")),
        ({"oft_rank": 3}, ("oft_rank: 3", "64 inputs")),
        ({"oft_target": "q_porj"}, ("oft_target", "Did you mean 'q_proj'?")),
    ],
)
def test_blocks_that_do_not_fit_are_refused(folder: Path, settings: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        made_ready(folder, finetuning_type="oft", **settings)
    assert all(text in caught.value.render() for text in named)


def test_oft_does_not_part_shared_embeddings(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    for settings in ({"additional_target": "lm_head"}, {"add_special_tokens": "<a>"}):
        with pytest.raises(ConfigError, match="share"):
            made_ready(folder, **OFT, **settings)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, {3}), (3, {1, 2, 3}), (-1, {0}), (-2, {0, 1}), (4, {0, 1, 2, 3}), (-4, {0, 1, 2, 3})]
)
def test_layers_are_counted_from_either_end(folder: Path, count: int, expected: set[int]) -> None:
    names = trainable(made_ready(folder, **FREEZE, freeze_trainable_layers=count))
    assert layers_of(names) == expected
    assert all("layers." in name for name in names)


def test_modules_inside_and_outside_the_layers_are_named(folder: Path) -> None:
    names = trainable(
        made_ready(
            folder,
            **FREEZE,
            freeze_trainable_layers=-1,
            freeze_trainable_modules="mlp,q_proj",
            freeze_extra_modules="embed_tokens,norm",
        )
    )
    assert names.keys() == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        *(f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    }


def test_extra_modules_alone_may_be_trained(folder: Path) -> None:
    names = trainable(made_ready(folder, **FREEZE, freeze_trainable_layers=0, freeze_extra_modules="lm_head"))
    assert names.keys() == {"lm_head.weight"}


@pytest.mark.parametrize("named", ["embed_tokens", "lm_head"])
def test_a_shared_matrix_is_trained_under_either_name(tmp_path: Path, named: str) -> None:
    folder = tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    model = made_ready(folder, **FREEZE, freeze_trainable_layers=0, freeze_extra_modules=named)
    assert [p.data_ptr() for p in trainable(model).values()] == [model.lm_head.weight.data_ptr()]


@pytest.mark.parametrize("kind", ["freeze", "lora"])
@pytest.mark.parametrize(("count", "expected"), [(1, {3}), (2, {1, 3})])
def test_llama_pro_trains_the_last_block_of_each_group(folder: Path, kind: str, count: int, expected: set[int]) -> None:
    names = trainable(made_ready(folder, finetuning_type=kind, use_llama_pro=True, freeze_trainable_layers=count))
    assert layers_of(names) == expected
    assert all("lora_" in name for name in names) == (kind == "lora")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"freeze_trainable_layers": 5}, ("freeze_trainable_layers: 5", "4 layers", "between 1 and 4")),
        ({"freeze_trainable_layers": -5}, ("freeze_trainable_layers: -5", "4 layers")),
        ({"freeze_trainable_modules": "atention"}, ("freeze_trainable_modules", "atention", "It has")),
        ({"freeze_extra_modules": "embed_token"}, ("freeze_extra_modules", "Did you mean 'embed_tokens'?")),
        ({"use_llama_pro": True, "freeze_trainable_layers": 3}, ("use_llama_pro", "3 groups", "1, 2 would divide")),
        ({"use_llama_pro": True, "freeze_trainable_layers": -2}, ("use_llama_pro", "-2 groups")),
        ({"use_llama_pro": True, "freeze_trainable_layers": 4}, ("use_llama_pro", "4 groups")),
    ],
)
def test_layers_that_do_not_fit_are_refused(folder: Path, settings: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        made_ready(folder, **FREEZE, **settings)
    assert all(text in caught.value.render() for text in named)
