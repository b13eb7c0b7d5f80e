"""The keys that the public tool's own examples of dpo, kto and reward models use, line for line, run unchanged.

Only places differ: the model, its template, the data folder and the output folder; and steps are limited. The data are
of the public demo's form: `dpo_en_demo` and `kto_en_demo`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tests.tiny import tiny_model

from tunesmith.config.resolve import resolve
from tunesmith.train.run import train

DATA = Path(__file__).parents[2] / "data"

SHARED = """
### model
model_name_or_path: {model}
trust_remote_code: true

### method
{method}

### dataset
dataset: {dataset}
template: chatml
cutoff_len: 2048
max_samples: 24
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
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null

### eval
# eval_dataset: {dataset}
# val_size: 0.1
# per_device_eval_batch_size: 1
# eval_strategy: steps
# eval_steps: 500
"""
LORA = "do_train: true\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\n"
EXAMPLES = {
    "dpo": (f"stage: dpo\n{LORA}pref_beta: 0.1\npref_loss: sigmoid  # choices: [sigmoid (dpo), orpo, simpo]", "5.0e-6"),
    "orpo": (f"stage: dpo\n{LORA}pref_beta: 0.1\npref_loss: orpo  # choices: [sigmoid (dpo), orpo, simpo]", "5.0e-6"),
    "kto": (f"stage: kto\n{LORA}pref_beta: 0.1", "5.0e-6"),
    "rm": (f"stage: rm\n{LORA}", "1.0e-4"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_public_example_trains(name: str, tmp_path: Path) -> None:
    method, learning_rate = EXAMPLES[name]
    model, output = tiny_model(tmp_path / "model"), tmp_path / "saves"
    file = tmp_path / "example.yaml"
    dataset = "kto_en_demo" if name == "kto" else "dpo_en_demo"
    text = SHARED.format(model=model, method=method, dataset=dataset, output=output, learning_rate=learning_rate)
    file.write_text(text, encoding="utf-8")
    assert train(resolve([str(file), f"dataset_dir={DATA}"], verb="train")) == 0
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    losses = [record["loss"] for record in state["log_history"]]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    assert (output / "value_head.safetensors").is_file() is (name == "rm")
    assert (output / "training_loss.png").is_file()
