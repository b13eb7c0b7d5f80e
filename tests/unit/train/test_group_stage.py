"""Stage grpo on a tiny model: every key changes something, held-out rewards, samples on disk, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.stages import write_stage_project
from tests.training import arguments, history, run_training, weights

from tunesmith.config.resolve import resolve
from tunesmith.data.collate import supervised_places
from tunesmith.data.store import StoreBuilder
from tunesmith.errors import ConfigError, DataError, TrainingError
from tunesmith.infer.batch import Rollout
from tunesmith.loss.group import GROUP_FORMS
from tunesmith.train.answers import without_unfinished
from tunesmith.train.rewards.combine import Rewards, Scored
from tunesmith.train.stages import grpo, on_policy
from tunesmith.types import RowRef

TWO_STEPS: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-2, "grpo_iterations": 2, "disable_shuffling": True}
FORMS = ("grpo", "dapo", "dr_grpo", "gspo")


@pytest.fixture(scope="module", autouse=True)
def lengths_differ() -> Iterator[None]:
    """Let a sixth of all tokens end an answer: a random model would hardly ever say the one that does."""
    sampling = on_policy.sampling_from_config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_policy, "sampling_from_config", lambda config, _: sampling(config, range(90)))
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder, settings = write_stage_project(tmp_path_factory.mktemp("groups"), "grpo", num_rows=12)
    (folder / "faulty.py").write_text(
        "calls = 0\n"
        "def _count():\n    global calls\n    calls += 1\n    return calls\n"
        "def raises_later(completions):\n"
        "    return [0.5] * len(completions) if _count() < 4 else [1 / 0 for _ in completions]\n"
        "def no_number(completions):\n    return [float('nan')] * len(completions)\n"
        "def level(completions, difficulty):\n    return [1.0] * len(completions)\n"
        "def same(completions):\n    return [1.0] * len(completions)\n",
        encoding="utf-8",
    )
    return folder, settings


@pytest.fixture(scope="module")
def base(project: tuple[Path, dict[str, Any]]) -> Path:
    folder, settings = project
    return run_training(folder, "base", **{**settings, **TWO_STEPS, "grpo_beta": 0.1})


def _differ(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return any(not torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "change",
    [
        {"grpo_loss": "dapo"},
        {"grpo_loss": "dr_grpo"},
        {"grpo_loss": "gspo"},
        {"num_generations": 4},
        {"grpo_iterations": 1},
        {"grpo_beta": 0.5},
        {"grpo_epsilon": 0.001},
        {"grpo_epsilon_high": 0.001},
        {"scale_rewards": "batch"},
        {"scale_rewards": "none"},
        {"mask_truncated_completions": True},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.5},
        {"max_new_tokens": 5},
        {"reward_weights": 0.0},
        {"seed": 7},
    ],
    ids=lambda change: "-".join(f"{key}={value}" for key, value in change.items()),
)
def test_a_key_changes_what_is_learnt(
    project: tuple[Path, dict[str, Any]], base: Path, change: dict[str, Any], tmp_path: Path
) -> None:
    folder, settings = project
    run = run_training(folder, str(tmp_path), **{**settings, **TWO_STEPS, "grpo_beta": 0.1, **change})
    assert _differ(run, base)


def test_prompts_whose_rewards_are_equal_may_be_left_out_of_the_mean(
    project: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = project
    scored = Rewards.score

    def flat(self: Any, samples: Any) -> Any:
        """Every second group gets equal rewards."""
        found = scored(self, samples)
        totals = [0.5 if (i // 3) % 2 else total for i, total in enumerate(found.totals)]
        return Scored(totals, found.by_source)

    monkeypatch.setattr(Rewards, "score", flat)
    settings = {**settings, "max_steps": 1, "max_grad_norm": 0}
    kept = run_training(folder, str(tmp_path / "kept"), **settings)
    skipped = run_training(folder, str(tmp_path / "skipped"), **settings, skip_equal_rewards=True)
    assert history(kept, "frac_reward_zero_std") == history(skipped, "frac_reward_zero_std") == [0.5]
    # half of the answers give no gradient: leaving them out of the mean doubles it
    assert history(skipped, "grad_norm") == pytest.approx([2 * history(kept, "grad_norm")[0]], rel=1e-5)


@pytest.mark.parametrize("settings", [{"skip_equal_rewards": True}, {"mask_truncated_completions": True}])
@pytest.mark.parametrize("form", FORMS)
def test_a_step_without_anything_to_learn_from_leaves_the_weights(
    project: tuple[Path, dict[str, Any]],
    settings: dict[str, Any],
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, common = project
    if "skip_equal_rewards" in settings:
        settings = {**settings, "reward_functions": folder / "faulty.py:same"}
    else:
        sampling = on_policy.sampling_from_config
        monkeypatch.setattr(
            on_policy, "sampling_from_config", lambda config, _: replace(sampling(config, ()), stop_ids=())
        )
    run = run_training(folder, str(tmp_path), **{**common, "max_steps": 1, "grpo_loss": form, **settings})
    assert history(run, "finished") == [0.0] or "skip_equal_rewards" in settings
    assert history(run, "grad_norm") == [0.0]
    assert history(run, "loss") == [0.0]


def test_answers_cut_at_the_limit_are_not_learnt_from_but_counted() -> None:
    builder = StoreBuilder()
    builder.add((1, 2, 3, 4, 5), (0, 0, 1, 1, 1), RowRef("", "", 0, 0), (2, 1, 2))
    builder.add((6, 7, 8), (0, 1, 1), RowRef("", "", 0, 1), (1, 1, 1))
    ends = [Rollout((3,), True), Rollout((4, 5), False), Rollout((7,), False), Rollout((8,), True)]
    store = without_unfinished(builder.build(), ends)
    assert store.weights.tolist() == [0, 0, 1, 0, 0, 0, 0, 1]
    assert int(store.first_sequence[-1]) == 4
    assert supervised_places(store, (1, 0)).tolist() == [7, 2]


def test_every_form_says_what_it_does_and_is_told_apart(
    project: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(FORMS) == set(GROUP_FORMS)
    folder, settings = project
    run_training(folder, str(tmp_path), **{**settings, "max_steps": 1, "grpo_loss": "dapo", "grpo_beta": 0.1})
    said = capsys.readouterr().out
    assert "dapo: 3 answers per prompt, ratios clipped to [0.8, 1.28], advantages scaled by group" in said
    assert "reference: the model as the run starts from it" in said


def test_rewards_are_logged_by_source_and_held_out_prompts_are_answered(
    project: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, settings = project
    evaluated = {"val_size": 4, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    rewards = f"{settings['reward_functions']},finished"
    both = {"reward_functions": rewards, "reward_weights": "1,0.5", "save_best": True}
    run = run_training(folder, str(tmp_path), **{**settings, **evaluated, **both, "max_steps": 2})
    lines = [json.loads(line) for line in (run / "trainer_log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "reward_std" in line]
    assert len(trained) == 2
    names = [f"rewards/{Path(settings['reward_functions']).name}", "rewards/finished"]
    for line in trained:
        assert line["reward"] == pytest.approx(line[names[0]] + 0.5 * line[names[1]])
        assert {"reward_std", "completion_length", "finished", "clip_ratio/low", "frac_reward_zero_std"} <= line.keys()
    held_out = history(run, "eval_reward")
    assert len(held_out) == 2
    assert len(history(run, f"eval_{names[0]}")) == 2
    state = json.loads((run / "trainer_state.json").read_text())
    assert state["best_metric"] == max(held_out)


def test_an_evaluation_draws_the_same_random_numbers_every_time(
    project: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, settings = project
    evaluated = {"val_size": 4, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0, "max_steps": 3}
    run = run_training(folder, str(tmp_path), **{**settings, **evaluated})
    assert len(set(history(run, "eval_reward"))) == 1
    assert len(set(history(run, "reward"))) == 3


def test_answers_are_written_down_only_when_asked_for(project: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, settings = project
    asked = {"log_completions": True, "num_completions_to_print": 2, "logging_steps": 2}
    run = run_training(folder, str(tmp_path), **{**settings, **asked, "max_steps": 4})
    found = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in found] == [2, 2, 4, 4]
    assert found[0].keys() == {"step", "prompt", "completion", "finished", "reward", "rewards"}
    assert found[0]["prompt"] == found[1]["prompt"]
    assert sum(found[0]["rewards"].values()) == pytest.approx(found[0]["reward"])
    silent = run_training(folder, str(tmp_path / "silent"), **{**settings, "max_steps": 1})
    assert not (silent / "samples.jsonl").exists()


def test_samples_of_steps_that_a_resumed_run_repeats_are_taken_back(tmp_path: Path) -> None:
    from tunesmith.train.samplelog import SampleLog

    sample = _sample()
    for steps in ((1, 2, 3), (3, 4)):
        log = SampleLog(tmp_path, 1)
        for step in steps:
            log.write(step, [sample], Scored([1.0], {"one": [1.0]}))
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def _sample() -> Any:
    from tunesmith.train.rewards.sample import Sample

    return Sample("p", "c", (1,), (2,), "pc", {}, True, RowRef("", "", 0, 0))


def test_the_temperature_of_sampling_is_that_of_the_loss(
    project: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """log-probabilities at a temperature are the log-softmax of the logits over it."""
    seen: dict[float, Any] = {}
    scored = grpo.token_logp

    def recorded(scorer: Any, store: Any, batches: Any, temperature: float) -> Any:
        logp_T = scored(scorer, store, batches, temperature)
        ids = torch.tensor(store.example(0)[0][: sum(store.piece_lengths(0)[:2])].astype(np.int64))
        with torch.no_grad():
            logits_TV = scorer.model(input_ids=ids[None], document_bounds=((0, len(ids)),)).logits[0]
        length = store.piece_lengths(0)[0]
        expected_T = (logits_TV / temperature).log_softmax(-1)[length - 1 : -1].gather(-1, ids[length:, None])[:, 0]
        seen[temperature] = (logp_T[length : len(ids)], expected_T.numpy())
        return logp_T

    monkeypatch.setattr(grpo, "token_logp", recorded)
    folder, settings = project
    run_training(folder, str(tmp_path), **{**settings, "max_steps": 1, "grpo_iterations": 2, "temperature": 0.6})
    ours, expected = seen[0.6]
    assert len(ours) > 1
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def _refused(error: type[Exception], project: tuple[Path, dict[str, Any]], **change: Any) -> Any:
    folder, settings = project
    with pytest.raises(error) as caught:
        run_training(folder, "refused", **{**settings, **change})
    return caught.value


def test_a_reward_that_fails_names_the_answer_and_loses_no_checkpoint(
    project: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = project
    saved = {"save_strategy": "steps", "save_steps": 1, "overwrite_output_dir": True}
    error = _refused(TrainingError, project, reward_functions=folder / "faulty.py:raises_later", **saved)
    assert "ZeroDivisionError" in error.what
    assert "faulty.py" in error.where
    assert [path.name for path in sorted((folder / "refused").glob("checkpoint-*"))] == [
        "checkpoint-1",
        "checkpoint-2",
        "checkpoint-3",
    ]
    error = _refused(TrainingError, project, reward_functions=folder / "faulty.py:no_number", overwrite_output_dir=True)
    assert "no finite number" in error.what


def test_a_row_without_the_column_of_a_reward_is_refused_before_the_weights_are_read(
    project: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.train import run

    monkeypatch.setattr(run, "build_model", lambda *_: pytest.fail("the weights were read"))
    folder, _ = project
    error = _refused(DataError, project, reward_functions=folder / "faulty.py:level")
    assert "'difficulty'" in error.what
    assert "rows.json" in error.where


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_generations": 1}, "num_generations is 1"),
        ({"reward_functions": ""}, "stage grpo needs a reward"),
        ({"do_sample": False}, "all answers to a prompt would be the same"),
        ({"temperature": 0}, "all answers to a prompt would be the same"),
        ({"reward_functions": "exakt"}, "'exakt' is no reward"),
    ],
)
def test_settings_without_anything_to_compare_are_refused(
    project: tuple[Path, dict[str, Any]], change: dict[str, Any], named: str
) -> None:
    assert named in _refused(ConfigError, project, **change).what


def test_answers_are_drawn_from_the_policy_itself_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    reward = {"stage": "grpo", "reward_functions": "exact"}
    resolved = resolve(arguments(tmp_path, **reward), verb="train")
    config = resolved.config
    assert (config.temperature, config.top_p, config.top_k) == (1.0, 1.0, 0)
    assert resolved.origins["top_k"].why == "stage grpo learns from answers drawn from the policy itself"
    assert resolved.notes == []
    own = resolve(arguments(tmp_path, **reward, temperature=0.8, top_p=0.9, top_k=20), verb="train")
    assert (own.config.temperature, own.config.top_p, own.config.top_k) == (0.8, 0.9, 20)
    assert [note.partition(":")[0] for note in own.notes] == ["top_p 0.9", "top_k 20"]
    chat = resolve(arguments(tmp_path, **reward), verb="chat").config
    assert (chat.temperature, chat.top_p, chat.top_k) == (0.95, 0.7, 50)


def test_keys_of_another_stage_are_named(tmp_path: Path) -> None:
    notes = resolve(arguments(tmp_path, num_generations=4, grpo_beta=0.1), verb="train").notes
    assert notes == ["num_generations, grpo_beta: not read by stage sft"]
