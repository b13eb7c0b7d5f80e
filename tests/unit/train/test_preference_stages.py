"""Stages dpo and kto: which reference they compare with, their whole-batch numbers, and what each setting changes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.stages import write_stage_project
from tests.tiny import tiny_adapter, tiny_model
from tests.training import history, run_training

from tunesmith.errors import ConfigError, ModelError, UserError
from tunesmith.loss.preference import PREFERENCE_LOSSES
from tunesmith.train.reference import Reference
from tunesmith.train.stages.dpo import REWARDS


@pytest.fixture(scope="module", params=["dpo"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return write_stage_project(tmp_path_factory.mktemp("pairs"), request.param)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return write_stage_project(tmp_path_factory.mktemp("labelled"), "kto")


def short(project: tuple[Path, dict[str, Any]], output: str, **settings: Any) -> Path:
    """Three steps; Adam makes the weights differ visibly from the first one on."""
    folder, own = project
    return run_training(folder, output, **{**own, "max_steps": 3, "overwrite_output_dir": True, **settings})


def curve(run: Path) -> list[float]:
    """Loss and gradient norm of every step."""
    return history(run, "loss") + history(run, "grad_norm")


def said(run: Path) -> str:
    return (run / "run.log").read_text(encoding="utf-8")


# --- the reference ----------------------------------------------------------------------------------------------


def test_the_reference_has_bits_of_its_own(project: tuple[Path, dict[str, Any]]) -> None:
    """Policy and reference are the same weights: the first loss is log 2 until one of the two is rounded."""
    folder, _ = project
    same = {"ref_model": folder / "model"}
    first = {
        name: history(short(project, f"bits-{name}", **same, **settings), "loss")[0]
        for name, settings in {
            "neither": {},
            "reference": {"ref_model_quantization_bit": 4},
            "policy": {"quantization_bit": 4},
            "both": {"quantization_bit": 4, "ref_model_quantization_bit": 4},
        }.items()
    }
    assert first["neither"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["both"] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(first["reference"] - math.log(2)) > 1e-5
    assert abs(first["policy"] - math.log(2)) > 1e-5


def test_a_continued_adapter_is_its_own_reference_unless_the_base_is_asked_for(
    project: tuple[Path, dict[str, Any]],
) -> None:
    """The public tool takes the base in both cases, so that DPO starts far away from its own reference."""
    folder, _ = project
    adapter = tiny_adapter(folder / "sft", folder / "model", scale=0.3)
    start = short(project, "start", adapter_name_or_path=adapter)
    assert "reference: the adapter that training goes on from" in said(start)
    assert history(start, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    base = short(project, "base", adapter_name_or_path=adapter, ref_policy="base")
    assert "reference: the model without its adapter" in said(base)
    assert abs(history(base, "rewards/margins")[0]) > 0.01
    assert abs(history(start, "rewards/margins")[0]) < 1e-5


def test_an_adapter_merged_first_is_part_of_the_reference(project: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = project
    adapter = tiny_adapter(folder / "merged", folder / "model", scale=0.3)
    for policy in ("start", "base"):
        run = short(project, f"new-{policy}", adapter_name_or_path=adapter, create_new_adapter=True, ref_policy=policy)
        assert history(run, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)


def test_pissa_needs_no_rule_of_its_own(project: tuple[Path, dict[str, Any]]) -> None:
    """The public tool refuses it: with its adapter off the base is another model. Here the start weights stand in."""
    run = short(project, "pissa", pissa_init=True, pissa_iter=-1)
    assert history(run, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(history(run, "rewards/margins")[2]) > 1e-4


def test_a_reference_model_is_another_policy(project: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = project
    other = tiny_model(folder / "other", seed=3)
    run = short(project, "other-ref", ref_model=other)
    assert f"reference: ref_model: {other}" in said(run)
    adapted = short(project, "adapted-ref", ref_model=other, ref_model_adapters=tiny_adapter(folder / "a", other))
    same = short(project, "same-ref", ref_model=folder / "model")
    margins = [history(each, "rewards/margins")[0] for each in (run, adapted, same)]
    assert abs(margins[2]) < 1e-5 < abs(margins[0])
    assert abs(margins[0] - margins[1]) > 1e-3


def test_a_reference_in_fewer_bits_is_another_policy(project: tuple[Path, dict[str, Any]]) -> None:
    pytest.importorskip("bitsandbytes")
    run = short(project, "bits-ref", ref_model=project[0] / "model", ref_model_quantization_bit=4)
    assert 1e-4 < abs(history(run, "rewards/margins")[0]) < 1


def test_a_reference_of_another_vocabulary_is_refused(project: tuple[Path, dict[str, Any]]) -> None:
    other = tiny_model(project[0] / "words", vocab=300)
    with pytest.raises(ModelError, match="another vocabulary") as caught:
        short(project, "words-ref", ref_model=other)
    assert str(other) in caught.value.where
    with pytest.raises(ModelError) as caught:
        short(project, "no-ref", ref_model=project[0] / "nowhere")
    assert "nowhere" in caught.value.render()
    assert "model_name_or_path" not in caught.value.render()


def test_tokens_that_the_run_adds_are_not_in_the_reference(project: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(ModelError, match="another vocabulary"):
        short(project, "added", ref_model=tiny_model(project[0] / "plain"), add_tokens="<extra>")


def test_dropout_is_off_in_policy_and_reference(project: tuple[Path, dict[str, Any]]) -> None:
    adapter = tiny_adapter(project[0] / "wet", project[0] / "model", scale=0.3)
    with_it, without = (
        short(project, f"dropout{p}", adapter_name_or_path=adapter, lora_dropout=p, create_new_adapter=True)
        for p in (0.5, 0.0)
    )
    assert history(with_it, "loss") == history(without, "loss")
    assert "dropout is off" in said(with_it)
    assert "dropout is off" not in said(without)


def test_a_cached_reference_is_the_one_computed_and_a_false_one_is_noticed(
    project: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tunesmith.train.reference as module

    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    computed: list[int] = []
    compute = module._compute

    def counting(reference: Reference, store: Any, setup: Any, indices: Any) -> Any:
        computed.append(len(indices))
        return compute(reference, store, setup, indices)

    monkeypatch.setattr(module, "_compute", counting)
    fresh = short(project, "fresh")
    again = short(project, "again", micro_batch_tokens=1)
    assert computed == [20, 2]  # all pairs, then two of them to make sure
    assert np.allclose(history(fresh, "loss"), history(again, "loss"), atol=1e-5)
    (file,) = (tmp_path / "reference").iterdir()
    logp_S = load_file(file)["logp"]
    save_file({"logp": logp_S + 0.5}, file)  # planted: as if by other weights
    noticed = short(project, "noticed")
    assert computed[2:] == [2, 20]
    assert "computed anew" in said(noticed)
    assert history(noticed, "loss") == history(fresh, "loss")
    assert torch.equal(load_file(file)["logp"], logp_S)


# --- numbers of the whole batch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"pref_loss": "bco_pair"}, {"pref_bco_weight": 0.5}], ids=["pair", "weight"])
def test_the_mean_of_all_rewards_so_far_is_kept(project: tuple[Path, dict[str, Any]], settings: dict[str, Any]) -> None:
    evaluation = {"val_size": 4, "eval_strategy": "steps", "eval_steps": 1}
    run = short(project, "delta", **settings, **evaluation, max_steps=4)
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    count, mean, _ = state["stage"][REWARDS]
    seen = [(a + b) / 2 for a, b in zip(history(run, "rewards/chosen"), history(run, "rewards/rejected"), strict=True)]
    assert count == 4 * 4 * 2  # steps, pairs, sides; the evaluations' pairs are not among them
    assert mean == pytest.approx(sum(seen) / 4, abs=1e-6)
    assert abs(mean) > 1e-5


def test_losses_without_whole_batch_numbers_score_a_batch_once(
    project: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tunesmith.train.stages.dpo as module

    looked: list[str] = []
    observed = module.observed
    monkeypatch.setattr(module, "observed", lambda *a: (looked.append("x"), observed(*a))[1])
    short(project, "once", pref_loss="sigmoid", max_steps=1)
    assert looked == []
    short(project, "twice", pref_loss="kto_pair", max_steps=1)
    assert looked == ["x"]


# --- settings ---------------------------------------------------------------------------------------------------


def test_every_preference_loss_trains_in_its_own_way(project: tuple[Path, dict[str, Any]]) -> None:
    """A loss that silently fell back to another (it has happened elsewhere) would repeat its gradient norms."""
    norms = {}
    for name in PREFERENCE_LOSSES:
        smoothing = {"dpo_label_smoothing": 0.1} if name == "robust" else {}
        run = short(project, f"loss-{name}", pref_loss=name, **smoothing, pref_beta=0.3)
        norms[name] = tuple(round(norm, 7) for norm in history(run, "grad_norm"))
        assert all(math.isfinite(loss) for loss in history(run, "loss"))
    assert len(set(norms.values())) == len(norms) == 14


FLIPS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"pref_beta": 0.5}),
    ({}, {"pref_ftx": 0.5}),
    ({}, {"pref_bco_weight": 0.5}),
    ({}, {"pref_loss": "hinge"}),
    ({}, {"dpo_label_smoothing": 0.2}),
    ({"pref_loss": "simpo"}, {"simpo_gamma": 2.0}),
    ({}, {"ld_alpha": 0.3}),
]


@pytest.mark.parametrize(("before", "flip"), FLIPS, ids=[next(iter(flip)) for _, flip in FLIPS])
def test_a_setting_of_dpo_changes_the_training(
    project: tuple[Path, dict[str, Any]], before: dict[str, Any], flip: dict[str, Any]
) -> None:
    plain, changed = short(project, "plain", **before), short(project, "changed", **{**before, **flip})
    assert curve(plain) != pytest.approx(curve(changed), rel=1e-3)


@pytest.mark.parametrize(
    "flip",
    [{"pref_beta": 0.5}, {"pref_ftx": 0.5}, {"kto_chosen_weight": 2.0}, {"kto_rejected_weight": 2.0}],
    ids=lambda flip: next(iter(flip)),
)
def test_a_setting_of_kto_changes_the_training(labelled: tuple[Path, dict[str, Any]], flip: dict[str, Any]) -> None:
    before = {"pref_ftx": 0.0}
    plain, changed = short(labelled, "plain", **before), short(labelled, "changed", **{**before, **flip})
    assert curve(plain) != pytest.approx(curve(changed), rel=1e-3)


def test_the_settings_of_the_references_change_kto_too(labelled: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = labelled
    adapter = tiny_adapter(folder / "sft", folder / "model", scale=0.3)
    start = short(labelled, "start", adapter_name_or_path=adapter)
    base = short(labelled, "base", adapter_name_or_path=adapter, ref_policy="base")
    other = short(labelled, "other", ref_model=tiny_model(folder / "ref", seed=3))
    first = [history(run, "rewards/chosen")[0] for run in (start, base, other)]
    assert abs(first[0]) < 1e-5 < min(abs(first[1]), abs(first[2]))


def test_a_resumed_run_says_what_has_changed_in_its_loss(project: tuple[Path, dict[str, Any]]) -> None:
    own = {"save_strategy": "steps", "save_steps": 2, "overwrite_output_dir": False}
    short(project, "resumed", **own, max_steps=2)
    run = short(project, "resumed", **own, max_steps=3, pref_beta=0.5)
    assert "`pref_beta` was 0.1 when the checkpoint was written and is 0.5 now" in said(run)
    assert "`pref_loss`" not in said(run)


# --- data that does not fit -------------------------------------------------------------------------------------


def test_pairs_for_sft_and_answers_for_dpo_are_refused_by_the_stage_that_they_fit(
    project: tuple[Path, dict[str, Any]], labelled: tuple[Path, dict[str, Any]]
) -> None:
    with pytest.raises(UserError, match="pairs") as caught:
        short(project, "pairs-sft", stage="sft")
    assert "dpo" in caught.value.render()
    for stage in ("dpo", "rm"):
        with pytest.raises(UserError) as caught:
            short(labelled, "labels-dpo", stage=stage)
        assert "kto" in caught.value.render()
    with pytest.raises(UserError) as caught:
        short(project, "pairs-kto", stage="kto")
    assert "dpo" in caught.value.render()


def _one_sided(labelled: tuple[Path, dict[str, Any]], label: bool) -> dict[str, Any]:
    folder = labelled[0] / "data"
    rows = [{**row, "label": label} for row in json.loads((folder / "rows.json").read_text(encoding="utf-8"))]
    (folder / "sided.json").write_text(json.dumps(rows), encoding="utf-8")
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    info["sided"] = {**info["rows"], "file_name": "sided.json"}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return {"eval_dataset": "sided"}


def test_one_sided_feedback_is_refused_for_training_and_noted_for_evaluation(
    labelled: tuple[Path, dict[str, Any]],
) -> None:
    evaluation = _one_sided(labelled, True)
    with pytest.raises(UserError, match="all 20 rows to train on are labelled true"):
        short(labelled, "sided", dataset="sided")
    run = short(labelled, "noted", **evaluation)
    assert "all 20 rows of an evaluation set are labelled true: no rewards/rejected" in said(run)
    results = json.loads((run / "eval_results.json").read_text(encoding="utf-8"))
    assert "eval_rewards/chosen" in results
    assert "eval_rewards/margins" not in results
    best = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "rewards/margins"}
    with pytest.raises(ConfigError, match="all evaluation rows are labelled true"):
        short(labelled, "best", **evaluation, **best)
