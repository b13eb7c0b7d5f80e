"""LoRA layers of a served model give PEFT's numbers, adapter by adapter and without any."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.tiny import tiny_adapter, tiny_model
from transformers import AutoModelForCausalLM

from tunesmith.model.lora_serving import serve_lora_directly
from tunesmith.model.second_adapter import add_adapter

IDS = torch.tensor([[5, 9, 300, 17, 44, 8]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_adapter_and_the_base_give_the_logits_of_peft(tmp_path, dtype: torch.dtype) -> None:
    folder = tiny_model(tmp_path / "base")
    first, second = tiny_adapter(tmp_path / "a", folder, seed=1), tiny_adapter(tmp_path / "b", folder, seed=2)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), str(first)).eval()
    add_adapter(model, second, "b")

    def logits() -> list[torch.Tensor]:
        found = []
        with torch.no_grad():
            for name in ("default", "b"):
                model.set_adapter(name)
                found.append(model(IDS).logits.float())
            with model.disable_adapter():
                found.append(model(IDS).logits.float())
        return found

    before = logits()
    assert serve_lora_directly(model) > 0
    for ours, theirs in zip(logits(), before, strict=True):
        assert (ours - theirs).norm() <= (1e-5 if dtype == torch.float32 else 2e-2) * theirs.norm()
    assert not torch.allclose(before[0], before[1], atol=1e-2)


def test_layers_with_more_than_two_matrices_stay_as_they_are(tmp_path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "base"))
    dora = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)).eval()
    assert serve_lora_directly(dora) == 0
