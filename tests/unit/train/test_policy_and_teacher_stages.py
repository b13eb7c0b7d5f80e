"""Every key of ppo, gkd and the sft losses changes what is learnt; bad rewards, prompts, teachers are said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.stages import write_stage_project
from tests.tiny import tiny_model
from tests.training import arguments, run_training, weights

from tunesmith.cli.main import main
from tunesmith.config.schema import specs
from tunesmith.errors import UserError

SHORT: dict[str, Any] = {
    "max_steps": 3,
    "max_new_tokens": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "ppo_kl_horizon": 20,
}
PPO_FLIPS: dict[str, Any] = {
    "ppo_buffer_size": 2,
    "ppo_epochs": 1,
    "ppo_score_norm": True,
    "ppo_target": 1e-9,
    "ppo_whiten_rewards": True,
    "ppo_adaptive_kl": False,
    "ppo_kl_coef": 0.5,
    "ppo_kl_horizon": 10,
    "ppo_gamma": 0.5,
    "ppo_lambda": 0.5,
}
GKD_FLIPS: dict[str, Any] = {
    "gkd_beta": 0.1,
    "gkd_lambda": 1.0,
    "gkd_temperature": 2.0,
    "gkd_topk": 3,
    "teacher_model": "another",
    "teacher_model_adapters": "adapter",
}
SFT_FLIPS: dict[str, dict[str, Any]] = {
    "use_dft_loss": {"use_dft_loss": True},
    "use_eaft_loss": {"use_eaft_loss": True},
    "eaft_alpha": {"use_eaft_loss": True, "eaft_alpha": 3.0},
    "use_asft_loss": {"use_asft_loss": True},
    "asft_alpha": {"use_asft_loss": True, "asft_alpha": 5.0},
    "label_smoothing_factor": {"label_smoothing_factor": 0.2},
}


def differ(one: Path, other: Path) -> bool:
    """Whether two runs ended with other weights."""
    first, second = weights(one), weights(other)
    return any(not torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    project, settings = write_stage_project(tmp_path_factory.mktemp("ppo"), "ppo", num_rows=12)
    settings = {
        **settings,
        **SHORT,
        "max_steps": 5,
        "learning_rate": 5e-2,
    }  # far from the reference: a divergence above 0
    return project, settings, run_training(project, "base", **settings)


@pytest.fixture(scope="module")
def gkd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    project, settings = write_stage_project(tmp_path_factory.mktemp("gkd"), "gkd-topk", num_rows=12)
    settings = {k: v for k, v in settings.items() if k != "gkd_topk"} | SHORT
    del settings["ppo_kl_horizon"]
    tiny_model(project / "another", seed=2)
    on_teacher = {"model_name_or_path": project / "teacher", "max_steps": 2, "learning_rate": 1e-2}
    run_training(project, "adapter", **on_teacher)
    return project, settings, run_training(project, "base", **settings)


def test_every_key_is_flipped() -> None:
    named = {name for name in specs() if name.startswith(("ppo_", "gkd_", "teacher_"))}
    assert named == {*PPO_FLIPS, *GKD_FLIPS}


@pytest.mark.parametrize("key", list(PPO_FLIPS))
def test_a_key_of_ppo_changes_what_is_learnt(key: str, ppo: tuple[Path, dict[str, Any], Path]) -> None:
    project, settings, base = ppo
    assert differ(run_training(project, key, **{**settings, key: PPO_FLIPS[key]}), base)


@pytest.mark.parametrize("key", list(GKD_FLIPS))
def test_a_key_of_gkd_changes_what_is_learnt(key: str, gkd: tuple[Path, dict[str, Any], Path]) -> None:
    project, settings, base = gkd
    value = project / GKD_FLIPS[key] if key.startswith("teacher") else GKD_FLIPS[key]
    assert differ(run_training(project, key, **{**settings, key: value}), base)


@pytest.mark.parametrize("key", list(SFT_FLIPS))
def test_a_key_of_an_sft_loss_changes_what_is_learnt(key: str, tmp_path: Path) -> None:
    project, settings = write_stage_project(tmp_path, "sft", num_rows=12)
    settings = {**settings, "max_steps": 3, "learning_rate": 1e-2}
    base = {name: value for name, value in SFT_FLIPS[key].items() if name != key}
    changed = run_training(project, "changed", **settings, **SFT_FLIPS[key])
    assert differ(changed, run_training(project, "base", **settings, **base))


@pytest.mark.parametrize("save_steps", [1, 100])
@pytest.mark.parametrize("line", ["raise ValueError('no')", "return [float('nan')] * len(completion_ids)"])
def test_a_reward_that_fails_ends_the_run_and_loses_no_step(
    line: str, save_steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, settings = write_stage_project(tmp_path, "ppo", num_rows=12)
    code = "CALLS = []\ndef bad(completion_ids, **columns):\n    CALLS.append(1)\n"
    code += f"    if len(CALLS) == 3:\n        {line}\n"
    (project / "bad.py").write_text(f"{code}    return [float(i) for i, _ in enumerate(completion_ids)]\n")
    settings = {**settings, **SHORT, "reward_functions": project / "bad.py:bad"}
    given = arguments(project, **settings, save_strategy="steps", save_steps=save_steps)
    assert main(["train", *given]) == 2
    said = capsys.readouterr()
    assert "bad" in said.out + said.err
    assert "Traceback (most recent call last)" not in said.err
    (project / "bad.py").write_text(
        code.split("    CALLS")[0] + "    return [float(i) for i, _ in enumerate(completion_ids)]\n"
    )
    assert main(["train", *given]) == 0
    assert "(step 2)" in capsys.readouterr().out
    assert json.loads((project / "out" / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 3


def test_a_prompt_that_leaves_no_room_is_said(ppo: tuple[Path, dict[str, Any], Path]) -> None:
    project, settings, _ = ppo
    with pytest.raises(UserError, match="max_length"):
        run_training(project, "long", **{**settings, "max_new_tokens": 0, "max_length": 10})


def test_a_teacher_of_another_vocabulary_is_refused(gkd: tuple[Path, dict[str, Any], Path]) -> None:
    project, settings, _ = gkd
    other = tiny_model(project / "other-words", vocab=400)
    with pytest.raises(UserError, match="`teacher_model` has another vocabulary"):
        run_training(project, "other", **{**settings, "teacher_model": other})
