"""One small training per stage: what the properties that hold for every stage are tested on.

A case is some rows and the settings that its stage needs. `tests/equivalence/test_splits_of_every_stage.py` and
`tests/resume/test_resume_of_every_stage.py` go over all cases; a new stage or loss is one more entry of `CASES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny import tiny_model
from tests.training import rows

ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}


@dataclass(frozen=True)
class StageCase:
    """Rows, their entry in dataset_info.json, and the settings beside those of `tests.training.arguments`.

    `setup` may write more into the project folder (a reward model, a teacher); it returns further settings.
    """

    rows: Callable[[int], Sequence[Mapping[str, Any]]]
    entry: Mapping[str, Any]
    settings: Mapping[str, Any]
    setup: Callable[[Path], Mapping[str, Any]] | None = None
    tags: tuple[str, ...] = field(default=())


def pairs(num_rows: int) -> list[dict[str, str]]:
    """A chosen answer, and a worse one of another length."""
    made = []
    for index, row in enumerate(rows(num_rows)):
        words = row["output"].split()
        worse = " ".join(reversed(words[: 1 + len(words) // (1 + index % 3)])) + " no"
        made.append({"instruction": row["instruction"], "input": "", "chosen": row["output"], "rejected": worse})
    return made


PAIR_ENTRY = {"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}}


def documents(num_rows: int) -> list[dict[str, str]]:
    """Texts of very unequal lengths, some longer than the cutoff."""
    return [
        {"text": " ".join([row["instruction"], row["output"]] * (1 + i % 4))} for i, row in enumerate(rows(num_rows))
    ]


def labelled(num_rows: int) -> list[dict[str, Any]]:
    """Answers, two of three with a thumb up."""
    return [{**row, "label": index % 3 > 0} for index, row in enumerate(rows(num_rows))]


REWARD_CODE = """
def even_ids(completion_ids, **columns):
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]
"""
"""A reward that a random model's answers differ in."""


def with_reward(folder: Path) -> Mapping[str, Any]:
    """A reward function beside the data."""
    (folder / "rewards.py").write_text(REWARD_CODE, encoding="utf-8")
    return {"reward_functions": folder / "rewards.py:even_ids"}


def groups(**settings: Any) -> StageCase:
    """Groups of short answers."""
    sampled = {"stage": "grpo", "num_generations": 3, "max_new_tokens": 10}
    return StageCase(rows, {}, {**sampled, **settings}, with_reward)


def scored(**settings: Any) -> StageCase:
    """Short answers, scored one by one; the last step is smaller, and a rank may have no share of a part."""
    sampled = {"stage": "ppo", "ppo_epochs": 2, "max_new_tokens": 8, "learning_rate": 1e-4}
    return StageCase(rows, {}, {**sampled, **settings}, with_reward)


def with_teacher(folder: Path) -> Mapping[str, Any]:
    """Another random model, to be imitated."""
    return {"teacher_model": tiny_model(folder / "teacher", seed=1)}


def distilled(**settings: Any) -> StageCase:
    """A teacher beside the data."""
    return StageCase(rows, {}, {"stage": "gkd", **settings}, with_teacher)


CASES: dict[str, StageCase] = {
    "pt": StageCase(documents, {"columns": {"prompt": "text"}}, {"stage": "pt", "packing": False}),
    "sft": StageCase(rows, {}, {"stage": "sft"}),
    "sft-dft": StageCase(rows, {}, {"stage": "sft", "use_dft_loss": True}),
    "sft-eaft": StageCase(rows, {}, {"stage": "sft", "use_eaft_loss": True}),
    "sft-asft": StageCase(rows, {}, {"stage": "sft", "use_asft_loss": True, "asft_alpha": 0.5}),
    "sft-asft-full": StageCase(
        rows, {}, {"stage": "sft", "use_asft_loss": True, "finetuning_type": "full", "learning_rate": 1e-4}
    ),
    "sft-smoothed": StageCase(rows, {}, {"stage": "sft", "label_smoothing_factor": 0.1}),
    "rm": StageCase(pairs, PAIR_ENTRY, {"stage": "rm"}),
    "rm-full": StageCase(pairs, PAIR_ENTRY, {"stage": "rm", "finetuning_type": "full", "learning_rate": 1e-4}),
    "kto": StageCase(labelled, {"columns": {**ALPACA, "kto_tag": "label"}}, {"stage": "kto", "pref_ftx": 0.1}),
    "dpo": StageCase(pairs, PAIR_ENTRY, {"stage": "dpo", "learning_rate": 5e-4}),
    "dpo-full": StageCase(
        pairs, PAIR_ENTRY, {"stage": "dpo", "pref_loss": "ipo", "finetuning_type": "full", "learning_rate": 1e-4}
    ),
    "dpo-kto-pair": StageCase(pairs, PAIR_ENTRY, {"stage": "dpo", "pref_loss": "kto_pair", "learning_rate": 5e-4}),
    "dpo-bco-pair": StageCase(pairs, PAIR_ENTRY, {"stage": "dpo", "pref_loss": "bco_pair", "learning_rate": 5e-4}),
    "dpo-bco-weight": StageCase(
        pairs, PAIR_ENTRY, {"stage": "dpo", "pref_bco_weight": 0.5, "ld_alpha": 0.5, "learning_rate": 5e-4}
    ),
    "dpo-simpo": StageCase(pairs, PAIR_ENTRY, {"stage": "dpo", "pref_loss": "simpo", "pref_ftx": 0.2}),
    "grpo": groups(),
    "grpo-dapo": groups(grpo_loss="dapo", grpo_iterations=2, grpo_beta=0.1, scale_rewards="batch", temperature=0.8),
    "grpo-gspo-full": groups(
        grpo_loss="gspo", grpo_iterations=2, grpo_beta=0.1, finetuning_type="full", learning_rate=1e-4
    ),
    "grpo-dr_grpo": groups(grpo_loss="dr_grpo", skip_equal_rewards=True),
    "ppo": scored(),
    "ppo-normed": scored(ppo_score_norm=True, ppo_whiten_rewards=True, ppo_buffer_size=2),
    "ppo-full": scored(ppo_kl_horizon=100, finetuning_type="full", learning_rate=5e-5),
    "gkd": distilled(gkd_beta=0.3, gkd_temperature=2.0),
    "gkd-topk": distilled(gkd_topk=5),
    "gkd-own": distilled(gkd_lambda=0.5, max_new_tokens=8, learning_rate=1e-4),
    "gkd-full": distilled(gkd_beta=1.0, finetuning_type="full", learning_rate=1e-4),
}


def write_stage_project(folder: Path, name: str, num_rows: int = 20, **model: Any) -> tuple[Path, dict[str, Any]]:
    """A folder with a tiny model and the data of a case. Returns it, and the settings to train with."""
    case = CASES[name]
    tiny_model(folder / "model", **model)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    (data / "rows.json").write_text(json.dumps(case.rows(num_rows)), encoding="utf-8")
    info = {"rows": {"file_name": "rows.json", **case.entry}}
    (data / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    more = case.setup(folder) if case.setup else {}
    return folder, {"cutoff_len": 192, **case.settings, **more}
