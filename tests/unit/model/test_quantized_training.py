"""QLoRA from the command's point of view: resumable to the bit, usable by plain PEFT, in chat, and in export."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import arguments, history, run_training, weights, write_project
from tests.two_ranks import train_on_two_ranks

from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError, ExportError, ResumeError
from tunesmith.export.destination import refuse_quantized
from tunesmith.model.quantized_layers import is_quantized

METHODS = [("bnb", 4), ("bnb", 8), ("hqq", 4), ("torchao", 8), ("torchao", 4)]
SHORT: dict[str, Any] = {"num_train_epochs": 1, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("qlora"))


@pytest.fixture(scope="module")
def run(project: Path) -> Path:
    return run_training(project, "run", quantization_bit=4, **SHORT)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_the_losses_are_those_of_lora_within_the_rounding(project: Path, method: str, bits: int, dtype: str) -> None:
    precision = {"bf16": True} if dtype == "bf16" else {}
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "val_size": 0.2}
    lora = run_training(project, f"lora-{dtype}", overwrite_output_dir=True, **SHORT, **precision, **evaluated)
    settings = {"quantization_method": method, "quantization_bit": bits}
    name = f"{method}{bits}-{dtype}"
    quantized = run_training(project, name, **SHORT, **precision, **evaluated, **settings)
    for key in ("loss", "eval_loss"):
        ours, theirs = history(quantized, key), history(lora, key)
        assert len(ours) == len(theirs) > 1
        assert ours != theirs
        assert max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True)) < 0.005
    assert history(quantized, "loss")[-1] < history(quantized, "loss")[0] - 0.1


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_a_resumed_run_is_the_unbroken_run(project: Path, tmp_path: Path, method: str, bits: int) -> None:
    settings = {"quantization_method": method, "quantization_bit": bits, "bf16": True, "lora_dropout": 0.1}
    settings |= {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2, "val_size": 0.2}
    unbroken = run_training(project, str(tmp_path / "unbroken"), **SHORT, **settings)
    (tmp_path / "broken").mkdir()
    shutil.copytree(unbroken / "checkpoint-3", tmp_path / "broken" / "checkpoint-3")
    resumed = run_training(project, str(tmp_path / "broken"), **SHORT, **settings)
    assert _sha256(resumed) == _sha256(unbroken)
    assert history(resumed, "loss")[-1] == history(unbroken, "loss")[-1]


def _sha256(run: Path) -> str:
    return hashlib.sha256((run / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_gradient_checkpointing_changes_nothing(project: Path, tmp_path: Path, method: str, bits: int) -> None:
    settings = {"quantization_method": method, "quantization_bit": bits, "max_steps": 3}
    plain = run_training(project, str(tmp_path / "plain"), gradient_checkpointing=False, **settings)
    saving = run_training(project, str(tmp_path / "saving"), gradient_checkpointing=True, **settings)
    assert history(saving, "grad_norm") == pytest.approx(history(plain, "grad_norm"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_two_ranks_take_the_same_steps_as_one(project: Path, tmp_path: Path, method: str, bits: int) -> None:
    settings = {"quantization_method": method, "quantization_bit": bits, "max_steps": 4, "use_cpu": True}
    alone = run_training(project, str(tmp_path / "one"), **settings, gradient_accumulation_steps=4)
    train_on_two_ranks([arguments(project, str(tmp_path / "two"), **settings, gradient_accumulation_steps=2)], tmp_path)
    for key in ("loss", "grad_norm"):
        assert history(tmp_path / "two", key) == pytest.approx(history(alone, key), rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"quantization_bit": 8},
        {"quantization_bit": "null"},
        {"quantization_type": "fp4"},
        {"double_quantization": False},
        {"quantization_method": "hqq"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_is_not_continued_on_another_quantization(
    project: Path, tmp_path: Path, change: dict[str, Any], run: Path
) -> None:
    settings = {"quantization_bit": 4, "save_strategy": "steps", "save_steps": 2, **SHORT}
    run_training(project, str(tmp_path / "run"), **{**settings, "max_steps": 2})
    with pytest.raises(ResumeError, match="not made by this run") as caught:
        run_training(project, str(tmp_path / "run"), **{**settings, **change})
    assert "base in 4 bits (bnb nf4, double)" in caught.value.where


def test_plain_peft_loads_the_adapter_on_the_quantized_and_on_the_original_base(project: Path, run: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    ids = torch.arange(3, 40)[None]
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    logits, effects = {}, {}
    for name, quantization in (("original", None), ("quantized", four_bits)):
        base = AutoModelForCausalLM.from_pretrained(project / "model", quantization_config=quantization)
        model = PeftModel.from_pretrained(base, run).train(False)
        assert is_quantized(model) == (name == "quantized")
        with torch.no_grad():
            logits[name] = model(ids).logits
            with model.disable_adapter():
                effects[name] = (logits[name] - model(ids).logits).norm()
    assert min(effects.values()) > 0.1
    assert abs(effects["original"] - effects["quantized"]) < 0.2 * effects["original"]
    stored = weights(run)
    assert len(stored) == 2 * 14
    assert all(tensor.dtype == torch.float32 for tensor in stored.values())


def test_the_run_says_how_many_bits_and_how_to_merge(project: Path, tmp_path: Path, capfd: Any) -> None:
    run_training(project, str(tmp_path / "run"), quantization_bit=4, max_steps=1)
    said = capfd.readouterr()
    text = " ".join((said.out + said.err).split())
    assert "base model in 4 bits (bnb nf4, double): 0.00 GB of weights" in text
    assert "quantization_bit=null" in text


def test_chat_answers_on_the_quantized_base(project: Path, run: Path) -> None:
    from tunesmith.infer.engine import sampling_from_config
    from tunesmith.infer.session import open_session
    from tunesmith.types import Message

    lines = [f"model_name_or_path={project / 'model'}", f"adapter_name_or_path={run}", "template=chatml"]
    lines += ["do_sample=false", "max_new_tokens=6", "quantization_bit=4"]
    session = open_session(resolve(lines, verb="chat"))
    assert is_quantized(session.engine.lanes.model)  # type: ignore[attr-defined]
    prompt = session.renderer.prompt([Message("user", "Who are you?")])
    answer = session.engine.generate(prompt, sampling_from_config(session.config, session.renderer.stop_ids))
    assert 0 < len(answer.token_ids) <= 6


def test_export_refuses_the_quantized_base_and_merges_into_the_original(
    project: Path, run: Path, tmp_path: Path
) -> None:
    from tunesmith.export.merge import export

    file = [str(run / "run.yaml"), f"export_dir={tmp_path / 'merged'}"]
    with pytest.raises(ConfigError, match="nothing is merged into quantized weights") as caught:
        resolve(file, verb="export")
    assert "quantization_bit=null" in caught.value.fix
    assert caught.value.exit_code == 2
    resolved = resolve([*file, "quantization_bit=null"], verb="export")
    with pytest.raises(ExportError, match="not merged into a quantized base"):
        refuse_quantized(resolved.replace("quantization_bit", 4, "a test").config, project / "model")
    assert export(resolved) == 0
    proof = json.loads((tmp_path / "merged" / "proof.json").read_text())
    assert proof["problems"] == []


@pytest.mark.parametrize("finetuning_type", ["full", "freeze"])
def test_weights_in_few_bits_are_not_trained_themselves(project: Path, finetuning_type: str) -> None:
    with pytest.raises(ConfigError, match="cannot be updated") as caught:
        resolve(arguments(project, finetuning_type=finetuning_type, quantization_bit=4), verb="train")
    assert caught.value.exit_code == 2


def test_an_adapter_is_continued_on_the_quantized_base(project: Path, run: Path, tmp_path: Path) -> None:
    settings = {"quantization_bit": 4, "adapter_name_or_path": run, **SHORT}
    continued = run_training(project, str(tmp_path / "next"), **settings)
    assert history(continued, "loss")[0] < history(run, "loss")[0]
    assert weights(continued).keys() == weights(run).keys()
