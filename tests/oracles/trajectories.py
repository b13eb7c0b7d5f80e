"""Twenty steps of a preference stage beside TRL's own trainer: the whole way, not only the loss.

Both get the same token ids in the same order, a tiny fp32 model, all of whose weights are trained, batches of four,
AdamW with a linear schedule, warm-up and clipping. Under these settings the two are the same mathematics: TRL means
over the micro-batch, so it gets whole batches (no accumulation), which is also where its KL estimate comes from; its
dropout is off, as ours is; its reward head has no bias, and ours gets no gradient for one (only differences of scores
are learnt from). `value` of a row is the largest difference of the loss over the steps, relative to the largest loss;
`gradient` that of the gradient norm. Left out is `ld_alpha`: TRL weighs the reference's tokens too, the public tool
and we do not.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.oracles.table import Row, check
from tests.oracles.trl_calls import PLAIN, need
from tests.stages import write_stage_project
from tests.training import arguments, history, run_training

NUM_STEPS = 20
PREFIX = "trajectory/"
"""Of the names in the table: tests/equivalence holds these rows, tests/unit/loss all others."""
TOLERANCE = 1e-5
"""Relative; fp32 sums in another order (padded rows, whole logits), carried on by twenty AdamW steps."""

SETTINGS: dict[str, Any] = {
    "finetuning_type": "full",
    "disable_shuffling": True,
    "max_steps": NUM_STEPS,
    "lr_scheduler_type": "linear",
    "learning_rate": 2e-4,
    "warmup_steps": 4,
    "weight_decay": 0.0,
    "max_grad_norm": 0.5,
    "optim": "adamw_torch",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
}


@dataclass(frozen=True)
class Trajectory:
    """One stage: its entry in `tests.stages.CASES`, further settings of ours, and TRL's trainer."""

    case: str
    ours: Mapping[str, Any]
    theirs: Callable[[Path, list[dict[str, Any]]], Any]


def _rows(project: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The token ids that we train on, under TRL's names."""
    from tunesmith.config.resolve import resolve
    from tunesmith.data.prepare import prepare
    from tunesmith.model.load import load_tokenizer
    from tunesmith.render import load_renderer

    config = resolve(arguments(project, **settings), verb="train").config
    store = prepare(config, load_renderer(config, load_tokenizer(config), "llama"), project, need_eval=False).train
    rows = []
    for index in range(len(store)):
        ids, weights = (values.tolist() for values in store.example(index))
        prefix, first, _ = store.piece_lengths(index)
        assert all(weights[prefix:]), "TRL trains every token of an answer"
        one, other = ids[prefix : prefix + first], ids[prefix + first :]
        rows.append(_row(config.stage, ids[:prefix], one, other, store, index))
    return rows


def _row(stage: str, prompt: list[int], one: list[int], other: list[int], store: Any, index: int) -> dict[str, Any]:
    if stage == "kto":
        desirable = bool(store.per_example["desirable"][index])
        return {"prompt_ids": prompt, "completion_ids": one, "KL_completion_ids": other, "label": desirable}
    if stage == "rm":
        return {"chosen_ids": prompt + one, "rejected_ids": prompt + other}
    return {"prompt_ids": prompt, "chosen_ids": one, "rejected_ids": other}


def _trained(trainer_class: Any, config_class: Any, model: Any, project: Path, rows: Any, **settings: Any) -> Any:
    """TRL's trainer after its steps, given rows of ids."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    class Given(trainer_class):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    config = config_class(
        output_dir=str(project / "oracle"),
        per_device_train_batch_size=SETTINGS["per_device_train_batch_size"],
        max_steps=NUM_STEPS,
        learning_rate=SETTINGS["learning_rate"],
        lr_scheduler_type=SETTINGS["lr_scheduler_type"],
        warmup_steps=SETTINGS["warmup_steps"],
        max_grad_norm=SETTINGS["max_grad_norm"],
        optim=SETTINGS["optim"],
        train_sampling_strategy="sequential",
        **PLAIN,
        max_length=None,
        **settings,
    )
    tokenizer = AutoTokenizer.from_pretrained(project / "model")
    trainer = Given(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return trainer


def _causal(project: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(project / "model", dtype=torch.float32)


def _dpo(loss_type: str, project: Path, rows: list[dict[str, Any]], **settings: Any) -> Any:
    from trl import DPOConfig, DPOTrainer

    settings = {"loss_type": [loss_type], "beta": 0.1, "precompute_ref_log_probs": True, **settings}
    return _trained(DPOTrainer, DPOConfig, _causal(project), project, rows, **settings)


def _kto(project: Path, rows: list[dict[str, Any]]) -> Any:
    from trl import KTOConfig, KTOTrainer

    settings = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.3, "precompute_ref_log_probs": True}
    return _trained(KTOTrainer, KTOConfig, _causal(project), project, rows, **settings)


def _rm(project: Path, rows: list[dict[str, Any]]) -> Any:
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from tunesmith.model.value_head import VALUE_HEAD, WEIGHT

    model = AutoModelForSequenceClassification.from_pretrained(project / "model", num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        model.score.weight.copy_(load_file(project / "model" / VALUE_HEAD)[WEIGHT])
    return _trained(RewardTrainer, RewardConfig, model, project, rows)


TRAJECTORIES: dict[str, Trajectory] = {
    **{
        f"dpo {name}": Trajectory("dpo", {"pref_loss": name}, partial(_dpo, name))
        for name in ("sigmoid", "ipo", "hinge", "nca_pair", "apo_zero")
    },
    "dpo robust": Trajectory(
        "dpo", {"pref_loss": "robust", "dpo_label_smoothing": 0.1}, partial(_dpo, "robust", label_smoothing=0.1)
    ),
    "kto": Trajectory("kto", {"pref_ftx": 0.0, "kto_rejected_weight": 1.3}, _kto),
    "rm": Trajectory("rm", {}, _rm),
}


def series(name: str, **changed: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Ours and TRL's, step by step, under `loss` and `grad_norm`. `changed`: settings of ours alone."""
    trajectory = TRAJECTORIES[name]
    with tempfile.TemporaryDirectory(prefix="tunesmith-trl-") as scratch:
        project, settings = write_stage_project(Path(scratch), trajectory.case, num_rows=24)
        if trajectory.case == "rm":
            _write_head(project / "model")
        settings = {**settings, **SETTINGS, **trajectory.ours}
        rows = _rows(project, settings)
        trainer = trajectory.theirs(project, rows)
        run = run_training(project, **{**settings, **changed})
        records = [record for record in trainer.state.log_history if "loss" in record]
        return {key: (history(run, key), [float(r[key]) for r in records]) for key in ("loss", "grad_norm")}


def _write_head(folder: Path) -> None:
    """A reward head for both to start from."""
    from tunesmith.model.value_head import ValueHead, save_value_head

    width = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        head = ValueHead(width)
        torch.nn.init.zeros_(head.summary.bias)
    save_value_head(head, folder)


def furthest(pair: tuple[list[float], list[float]]) -> float:
    """The largest difference of two series of `NUM_STEPS` numbers, relative to the largest of them."""
    ours, theirs = pair
    assert len(ours) == len(theirs) == NUM_STEPS
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / max(map(abs, theirs))


def trajectory_row(name: str) -> Row:
    """The row of one trajectory."""
    need(1, 16)
    found = series(name)
    trainer = {"kto": "KTOTrainer", "rm": "RewardTrainer"}.get(name, "DPOTrainer")
    loss, norm = furthest(found["loss"]), furthest(found["grad_norm"])
    return Row(f"{name}, {NUM_STEPS} steps", f"TRL {trainer}, trained (loss; gradient norm)", loss, norm)


for _name in TRAJECTORIES:
    check(f"{PREFIX}{_name}", partial(trajectory_row, _name))
