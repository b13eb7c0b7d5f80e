"""Twenty steps of the stages that learn from given tokens, beside trainers of TRL and transformers.

Both get the same token ids, the examples of each of our steps as one padded batch, a tiny fp32 model, all of whose
weights are trained, AdamW with a linear schedule, warm-up and clipping. Under these settings the two are the same
mathematics: every loss is a mean over the trained tokens of a step. Documents that share a flat row with us are rows of
their own over there, so a document that saw its neighbour would be noticed. TRL's GKDTrainer trains at temperature 1
whatever its settings say, so gkd is compared there.

`value` of a row is the largest difference of the loss over the steps, relative to the largest loss; `gradient` that of
the gradient norm.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.oracles.table import Row, check
from tests.oracles.trajectories import NUM_STEPS, PREFIX, SETTINGS, furthest
from tests.oracles.trl_calls import PLAIN, need
from tests.stages import write_stage_project
from tests.training import arguments, history, run_training

Steps = list[dict[str, list[list[int]]]]
"""For each step the `ids` and `labels` of its examples."""


@dataclass(frozen=True)
class TokenRun:
    """One stage: its entry in `tests.stages.CASES`, further settings of ours, and the trainer beside it."""

    case: str
    ours: Mapping[str, Any]
    theirs: Callable[[Path, Steps], Any]
    label: str


def _steps(project: Path, settings: Mapping[str, Any]) -> Steps:
    """The tokens of our steps; the label of a token that is not trained is -100."""
    from tunesmith.config.resolve import resolve
    from tunesmith.data.plan import plan_epoch
    from tunesmith.data.prepare import prepare
    from tunesmith.model.load import load_tokenizer
    from tunesmith.render import load_renderer
    from tunesmith.train.settings import plan_spec

    config = resolve(arguments(project, **settings), verb="train").config
    store = prepare(config, load_renderer(config, load_tokenizer(config), "llama"), project, need_eval=False).train
    plan = plan_spec(config, 1)
    steps: Steps = []
    for epoch in range(NUM_STEPS):
        for step in plan_epoch(store.lengths.tolist(), plan, epoch):
            examples = [store.example(index) for micro in step.micro_batches[0] for index in micro]
            rows = [(ids.tolist(), (weights > 0).tolist()) for ids, weights in examples]
            labels = [[-100, *(t if w else -100 for t, w in zip(i[1:], m[1:], strict=True))] for i, m in rows]
            steps.append({"ids": [ids for ids, _ in rows], "labels": labels})
        if len(steps) >= NUM_STEPS:
            return steps[:NUM_STEPS]
    raise AssertionError("an epoch has steps")


def _padded(items: list[dict[str, list[list[int]]]]) -> dict[str, torch.Tensor]:
    """The one step of a batch, as right-padded rows."""
    (step,) = items
    longest = max(map(len, step["ids"]))
    pad = [longest - len(ids) for ids in step["ids"]]
    return {
        "input_ids": torch.tensor([ids + [0] * n for ids, n in zip(step["ids"], pad, strict=True)]),
        "labels": torch.tensor([labels + [-100] * n for labels, n in zip(step["labels"], pad, strict=True)]),
        "attention_mask": torch.tensor([[1] * (longest - n) + [0] * n for n in pad]),
    }


def _trained(trainer_class: Any, config_class: Any, project: Path, steps: Steps, *models: Any, **settings: Any) -> Any:
    """The trainer after its steps. `models`: further positional arguments after the trained model."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Given(trainer_class):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    config = config_class(
        output_dir=str(project / "oracle"),
        per_device_train_batch_size=1,
        max_steps=NUM_STEPS,
        learning_rate=SETTINGS["learning_rate"],
        lr_scheduler_type=SETTINGS["lr_scheduler_type"],
        warmup_steps=SETTINGS["warmup_steps"],
        max_grad_norm=SETTINGS["max_grad_norm"],
        optim=SETTINGS["optim"],
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        **PLAIN,
        **settings,
    )
    model = AutoModelForCausalLM.from_pretrained(project / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(project / "model")
    rows = Dataset.from_list(steps)
    more = dict(train_dataset=rows, processing_class=tokenizer, data_collator=_padded)
    trainer = Given(model, *models, args=config, **more)
    trainer.train()
    return trainer


def _plain(project: Path, steps: Steps, **settings: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    return _trained(Trainer, TrainingArguments, project, steps, **settings)


def _dft(project: Path, steps: Steps) -> Any:
    from trl import SFTConfig, SFTTrainer

    skipped = {"skip_prepare_dataset": True}
    return _trained(SFTTrainer, SFTConfig, project, steps, loss_type="dft", dataset_kwargs=skipped, max_length=None)


def _gkd(beta: float, project: Path, steps: Steps) -> Any:
    from transformers import AutoModelForCausalLM

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    teacher = AutoModelForCausalLM.from_pretrained(project / "teacher", dtype=torch.float32)
    settings = {"lmbda": 0.0, "beta": beta, "max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return _trained(GKDTrainer, GKDConfig, project, steps, teacher, **settings)


RUNS: dict[str, TokenRun] = {
    "sft": TokenRun("sft", {}, _plain, "transformers Trainer"),
    "sft label smoothing": TokenRun(
        "sft-smoothed", {}, partial(_plain, label_smoothing_factor=0.1), "transformers Trainer"
    ),
    "sft dft": TokenRun("sft-dft", {}, _dft, "TRL SFTTrainer"),
    "pt, packed": TokenRun("pt", {"packing": True}, _plain, "transformers Trainer"),
    **{
        f"gkd beta {beta:g}": TokenRun(
            "gkd", {"gkd_beta": beta, "gkd_temperature": 1.0}, partial(_gkd, beta), "TRL GKDTrainer"
        )
        for beta in (0.0, 0.5, 1.0)
    },
}


def series(name: str, **changed: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Ours and theirs, step by step, under `loss` and `grad_norm`. `changed`: settings of ours alone."""
    run = RUNS[name]
    with tempfile.TemporaryDirectory(prefix="tunesmith-trl-") as scratch:
        project, settings = write_stage_project(Path(scratch), run.case, num_rows=24)
        settings = {**settings, **SETTINGS, "micro_batch_tokens": 300, **run.ours}
        trainer = run.theirs(project, _steps(project, settings))
        ours = run_training(project, **{**settings, **changed})
        records = [record for record in trainer.state.log_history if "loss" in record]
        return {key: (history(ours, key), [float(r[key]) for r in records]) for key in ("loss", "grad_norm")}


def token_row(name: str) -> Row:
    """The row of one trajectory."""
    need(1, 16)
    found = series(name)
    loss, norm = furthest(found["loss"]), furthest(found["grad_norm"])
    return Row(f"{name}, {NUM_STEPS} steps", f"{RUNS[name].label}, trained (loss; gradient norm)", loss, norm)


for _name in RUNS:
    check(f"{PREFIX}{_name}", partial(token_row, _name))
