"""The keys that the public tool's own examples use for each method, line for line, run unchanged.

Only places differ: the model, its template, the data folder and the output folder; and `max_samples` is small. The data
folder has the names that its demos have, in their forms.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.tiny import tiny_model

from tunesmith.config.resolve import resolve
from tunesmith.train.run import train

DATA = Path(__file__).parents[2] / "data"

HEAD = """
### model
model_name_or_path: {model}
{of_model}trust_remote_code: true

### method
"""
TAIL = """
### dataset
dataset: {dataset}
template: chatml
cutoff_len: 2048
max_samples: {max_samples}
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: {output}
logging_steps: 1
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: {learning_rate}
num_train_epochs: 1.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
{precision}: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""
EVAL = """
### eval
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
"""
LORA = "do_train: true\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\n"
SFT = "identity,alpaca_en_demo"
EXAMPLES: dict[str, dict[str, str]] = {
    "dpo": {"method": f"stage: dpo\n{LORA}pref_beta: 0.1\npref_loss: sigmoid", "dataset": "dpo_en_demo"},
    "orpo": {"method": f"stage: dpo\n{LORA}pref_beta: 0.1\npref_loss: orpo", "dataset": "dpo_en_demo"},
    "kto": {"method": f"stage: kto\n{LORA}pref_beta: 0.1", "dataset": "kto_en_demo"},
    "rm": {"method": f"stage: rm\n{LORA}", "dataset": "dpo_en_demo", "after": EVAL},
    "ppo": {
        "method": f"stage: ppo\n{LORA}reward_model: {{reward_model}}",
        "after": "\n### generate\nmax_new_tokens: 512\ntop_k: 0\ntop_p: 0.9\n",
    },
    "pt": {"method": f"stage: pt\n{LORA}", "dataset": "c4_demo", "after": EVAL},
    "freeze": {
        "method": "stage: sft\ndo_train: true\nfinetuning_type: freeze\n"
        "freeze_trainable_layers: 1\nfreeze_trainable_modules: all"
    },
    "qlora": {
        "of_model": "quantization_bit: 4  # choices: [8 (bnb/hqq/eetq), 4 (bnb/hqq), 3 (hqq), 2 (hqq)]\n"
        "quantization_method: bnb  # choices: [bnb, hqq, eetq]\n",
        "method": f"stage: sft\n{LORA}",
    },
    "galore": {
        "method": "stage: sft\ndo_train: true\nfinetuning_type: full\nuse_galore: true\ngalore_layerwise: true\n"
        "galore_target: all\ngalore_rank: 128\ngalore_scale: 2.0",
        "precision": "pure_bf16",
        "rows": "1",
    },
    "loraplus": {"method": f"stage: sft\n{LORA}loraplus_lr_ratio: 16.0"},
    "dora": {"method": f"stage: sft\n{LORA}use_dora: true", "after": EVAL},
    "pissa": {"method": f"stage: sft\n{LORA}pissa_init: true\npissa_iter: 16\npissa_convert: true", "after": EVAL},
}


def _config_of(adapter: Path) -> Any:
    return json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))


def _is_full_model(output: Path) -> None:
    assert (output / "model.safetensors").is_file()


def _is_pissa(output: Path) -> None:
    assert (output / "pissa_init" / "adapter_model.safetensors").is_file()
    assert _config_of(output / "pissa_converted")["init_lora_weights"] is True
    assert _config_of(output / "pissa_converted")["r"] == 16  # an ordinary adapter needs twice the rank


CHECKS: dict[str, Callable[[Path], None]] = {
    "freeze": _is_full_model,
    "galore": _is_full_model,
    "dora": lambda output: _has_tensor(output, "lora_magnitude_vector"),
    "pissa": _is_pissa,
    "ppo": lambda output: _has_tensor(output, "lora_B"),
}
"""What shows that the method was used, where the loss does not."""


def _has_tensor(output: Path, part: str) -> None:
    assert any(part in name for name in load_file(output / "adapter_model.safetensors"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(DATA, folder, dirs_exist_ok=True)
    rows = [json.loads(line) for line in (DATA / "demo/pt_en_demo.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({"text": next(iter(row.values()))}) + "\n" for row in rows]
    (folder / "c4_demo.jsonl").write_text("".join(lines), encoding="utf-8")
    tasks = [{"instruction": f"Name colour {n}.", "input": "", "output": f"Colour {n} is green."} for n in range(24)]
    (folder / "alpaca_en_demo.json").write_text(json.dumps(tasks), encoding="utf-8")
    known = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    known["c4_demo"] = {"file_name": "c4_demo.jsonl", "columns": {"prompt": "text"}}
    known["alpaca_en_demo"] = {"file_name": "alpaca_en_demo.json"}
    (folder / "dataset_info.json").write_text(json.dumps(known), encoding="utf-8")
    return folder


def _train(name: str, folder: Path, data: Path) -> Path:
    model, output, example = tiny_model(folder / "model"), folder / name, EXAMPLES[name]
    if name == "ppo":
        example = {**example, "method": example["method"].format(reward_model=_train("rm", folder, data))}
    tail = TAIL.replace("accumulation_steps: 8", f"accumulation_steps: {example.get('rows', '8')}").format(
        dataset=example.get("dataset", SFT),
        output=output,
        learning_rate="5.0e-6" if name in ("dpo", "orpo", "kto") else "1.0e-4",
        max_samples={"ppo": 12, "pt": 240}.get(name, 24),  # long answers of an untrained model; documents are packed
        precision=example.get("precision", "bf16"),
    )
    head = HEAD.format(model=model, of_model=example.get("of_model", ""))
    file = folder / f"{name}.yaml"
    file.write_text(head + example["method"] + "\n" + tail + example.get("after", ""), encoding="utf-8")
    assert train(resolve([str(file), f"dataset_dir={data}"], verb="train")) == 0
    return output


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_public_example_trains(name: str, data: Path, tmp_path: Path) -> None:
    output = _train(name, tmp_path, data)
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    losses = [record["loss"] for record in state["log_history"] if "loss" in record]
    assert len(losses) >= 3
    assert all(math.isfinite(loss) for loss in losses)
    assert (output / "value_head.safetensors").is_file() is (name in ("rm", "ppo"))
    assert (output / "training_loss.png").is_file()
    CHECKS.get(name, lambda _: None)(output)
