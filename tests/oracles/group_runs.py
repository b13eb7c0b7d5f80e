"""Twenty updates of stage grpo beside TRL's GRPOTrainer: the whole way from sampled answers to weights.

TRL is given the answers that our policy sampled (in place of its own generation) and the same reward function; scores,
advantages, log-probabilities, loss, clipping and AdamW are its own. A tiny fp32 model, all weights trained; four
prompts with four answers each; two micro-batches of equal size in TRL, since it means over each of them. Answers end
at a twelfth of all tokens, so that their lengths differ. With two updates per rollout TRL logs two losses where we log
their mean. TRL multiplies the KL term by the ratio unless `use_bias_correction_kl` is off, which it is here: we
compute the paper's.

`value` of a row is the largest difference of the loss, relative to the largest loss but at least to a tenth (the
loss of the first update of a rollout is 0 by construction in forms that mean over answers); `gradient` that of the
gradient norm.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.oracles import trl_calls
from tests.oracles.table import Row, check
from tests.oracles.trajectories import PREFIX
from tests.stages import write_stage_project
from tests.training import history, run_training

NUM_UPDATES = 20
NUM_PROMPTS, NUM_ANSWERS, LONGEST = 4, 4, 12
SMALLEST_LOSS = 0.1
STOP_IDS = range(40)

SETTINGS: dict[str, Any] = {
    "finetuning_type": "full",
    "disable_shuffling": True,
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "max_grad_norm": 0.5,
    "optim": "adamw_torch",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_generations": NUM_ANSWERS,
    "max_new_tokens": LONGEST,
    "cutoff_len": 64,
}


@dataclass(frozen=True)
class GroupRun:
    """Settings of ours and of TRL's for one trajectory; `iterations`: updates per rollout."""

    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]
    iterations: int = 1
    temperature: float = field(default=1.0)


RUNS: dict[str, GroupRun] = {
    "grpo": GroupRun({}, {"loss_type": "grpo"}),
    "grpo, beta 0.1, two updates": GroupRun(
        {"grpo_beta": 0.1}, {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False}, 2
    ),
    "dapo, temperature 0.7, two updates": GroupRun(
        {"grpo_loss": "dapo"}, {"loss_type": "dapo", "epsilon_high": 0.28}, 2, 0.7
    ),
    "dr_grpo": GroupRun({"grpo_loss": "dr_grpo"}, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "gspo, two updates": GroupRun(
        {"grpo_loss": "gspo", "scale_rewards": "batch"},
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
            "scale_rewards": "batch",
        },
        2,
    ),
}


def even_ids(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The reward of `tests.stages`, for TRL."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def _ours(project: Path, settings: Mapping[str, Any]) -> tuple[Path, list[tuple[list[Any], list[Any]]]]:
    """Our run, and the prompts and answers of each of its steps."""
    from tunesmith.train.stages import on_policy

    steps: list[tuple[list[Any], list[Any]]] = []
    sample, sampling = on_policy.sample_answers, on_policy.sampling_from_config

    def recorded(*args: Any) -> Any:
        answers = sample(*args)
        prompts = [list(sample.prompt_ids) for sample in answers.samples]
        steps.append((prompts, [list(answer.ids) for answer in answers.rollouts]))
        return answers

    on_policy.sample_answers = recorded
    on_policy.sampling_from_config = lambda config, _: sampling(config, STOP_IDS)
    try:
        return run_training(project, **settings), steps
    finally:
        on_policy.sample_answers, on_policy.sampling_from_config = sample, sampling


def _theirs(project: Path, run: GroupRun, steps: list[tuple[list[Any], list[Any]]]) -> list[dict[str, Any]]:
    """TRL's log, given the answers of each step."""
    trl_calls.need(1, 16)
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    given = iter(steps)

    class Given(GRPOTrainer):  # type: ignore[misc]
        def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
            prompt_ids, completion_ids = next(given)
            assert len(prompts) == len(completion_ids)
            return prompt_ids, completion_ids, None, [""] * len(prompts), None, {}, None, []

    config = GRPOConfig(
        output_dir=str(project / "oracle"),
        per_device_train_batch_size=NUM_PROMPTS * NUM_ANSWERS // 2,
        gradient_accumulation_steps=2,
        num_generations=NUM_ANSWERS,
        num_iterations=run.iterations,
        max_completion_length=LONGEST,
        temperature=run.temperature,
        max_steps=NUM_UPDATES,
        learning_rate=SETTINGS["learning_rate"],
        lr_scheduler_type="constant",
        max_grad_norm=SETTINGS["max_grad_norm"],
        optim="adamw_torch",
        shuffle_dataset=False,
        **trl_calls.PLAIN,
        **run.theirs,
    )
    trainer = Given(
        model=AutoModelForCausalLM.from_pretrained(project / "model", dtype=torch.float32),
        reward_funcs=even_ids,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": f"prompt {i}"} for i in range(80)]),
        processing_class=AutoTokenizer.from_pretrained(project / "model"),
    )
    trainer.train()
    return [record for record in trainer.state.log_history if "loss" in record]


def series(name: str, **changed: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Ours and TRL's, step by step, under `loss`, `grad_norm` and `reward`. `changed`: settings of ours alone."""
    run = RUNS[name]
    with tempfile.TemporaryDirectory(prefix="tunesmith-trl-") as scratch:
        project, settings = write_stage_project(Path(scratch), "grpo", num_rows=24)
        own = {"grpo_iterations": run.iterations, "temperature": run.temperature, **run.ours}
        settings = {**settings, **SETTINGS, **own, "max_steps": NUM_UPDATES // run.iterations, **changed}
        folder, steps = _ours(project, settings)
        records = _theirs(project, run, steps)
        theirs = {
            "loss": _means([float(record["loss"]) for record in records], run.iterations),
            "grad_norm": [float(record["grad_norm"]) for record in records][run.iterations - 1 :: run.iterations],
            "reward": [float(record["reward"]) for record in records if "reward" in record],
        }
        return {key: (history(folder, key), theirs[key]) for key in theirs}


def _means(values: list[float], num: int) -> list[float]:
    """Means of each `num` values in a row."""
    assert len(values) % num == 0
    return [sum(values[i : i + num]) / num for i in range(0, len(values), num)]


def furthest(pair: tuple[list[float], list[float]], smallest: float = 0.0) -> float:
    """The largest difference of two series, relative to the largest number, or to `smallest` where that is more."""
    ours, theirs = pair
    assert len(ours) == len(theirs) >= NUM_UPDATES // 2
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / max(smallest, *map(abs, theirs))


def trajectory_row(name: str) -> Row:
    """The row of one trajectory."""
    found = series(name)
    loss, grad_norm = furthest(found["loss"], SMALLEST_LOSS), furthest(found["grad_norm"])
    return Row(f"stage grpo, {NUM_UPDATES} updates: {name}", "TRL GRPOTrainer.train", loss, grad_norm)


for _name in RUNS:
    check(f"{PREFIX}{_name}" if _name.startswith("grpo") else f"{PREFIX}grpo {_name}", partial(trajectory_row, _name))
