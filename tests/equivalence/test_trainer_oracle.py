"""Step by step the loop must do what `transformers.Trainer` does: same loss, gradient norm and learning rate.

The oracle gets the very same token ids, in the same order, from the run's own preparation, and pads or flattens
them in its own way; everything else (loss, normalisation, clipping, optimizer, schedule) is its own code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import arguments, history, largest_difference, run_training, write_project
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, DataCollatorWithFlattening, Trainer, TrainingArguments

from tunesmith.config.resolve import resolve
from tunesmith.data.prepare import prepare
from tunesmith.model.load import load_tokenizer
from tunesmith.model.methods.prepare import prepare_trainable
from tunesmith.render import load_renderer
from tunesmith.train.runtime import seed_everything

NUM_STEPS = 20
# Both sides sum some thousand fp32 terms in another order: 1e-6 relative, on losses near 6 and norms near 1.
TOLERANCE = 1e-6

SETTINGS: dict[str, Any] = {
    "disable_shuffling": True,
    "max_steps": NUM_STEPS,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 4,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
}


class _InOrder(Trainer):
    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def _pad(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(e["input_ids"]) for e in examples)

    def column(key: str, filler: int) -> torch.Tensor:
        return torch.tensor([e[key] + [filler] * (longest - len(e[key])) for e in examples])

    mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (longest - len(e["input_ids"])) for e in examples])
    return {"input_ids": column("input_ids", 0), "labels": column("labels", -100), "attention_mask": mask}


def _oracle(project: Path, collator: Any, settings: dict[str, Any]) -> list[dict[str, float]]:
    config = resolve(arguments(project, **settings), verb="train").config
    renderer = load_renderer(config, load_tokenizer(config), "llama")
    store = prepare(config, renderer, project, need_eval=False).train
    examples = []
    for index in range(len(store)):
        ids, weights = (values.tolist() for values in store.example(index))
        labels = [token if weight else -100 for token, weight in zip(ids, weights, strict=True)]
        examples.append({"input_ids": ids, "labels": labels})
    seed_everything(config.seed, 0)
    model = AutoModelForCausalLM.from_pretrained(project / "model", dtype=torch.float32, attn_implementation="sdpa")
    model = prepare_trainable(model, config, torch.float32)
    training = TrainingArguments(
        output_dir=str(project / "oracle"),
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        max_steps=NUM_STEPS,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=config.optim,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=config.seed,
    )
    trainer = _InOrder(model=model, args=training, train_dataset=examples, data_collator=collator)
    trainer.train()
    return [record for record in trainer.state.log_history if "loss" in record]


@pytest.mark.parametrize("finetuning_type", ["full", "lora"])
@pytest.mark.parametrize("layout", ["padded", "flattened"])
def test_twenty_steps_equal_those_of_transformers_trainer(tmp_path: Path, finetuning_type: str, layout: str) -> None:
    project = write_project(tmp_path, num_rows=24)
    settings = {**SETTINGS, "finetuning_type": finetuning_type}
    if finetuning_type == "full":
        del settings["finetuning_type"]
        settings |= {"finetuning_type": "full", "lora_target": "all"}
    collator = _pad if layout == "padded" else DataCollatorWithFlattening()
    expected = _oracle(project, collator, settings)
    run = run_training(project, **settings)
    assert len(expected) == NUM_STEPS
    for key in ("loss", "grad_norm", "learning_rate"):
        ours = history(run, key)
        theirs = [float(record[key]) for record in expected]
        assert largest_difference(ours, theirs) <= TOLERANCE * max(1.0, max(theirs)), key
