"""Opening a model for talking: adapters act, the render contract holds, idle adapters are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tiny import tiny_adapter, tiny_model

from tunesmith.config.resolve import Resolved, resolve
from tunesmith.errors import ConfigError, TemplateError
from tunesmith.infer.engine import sampling_from_config
from tunesmith.infer.session import Session, open_session
from tunesmith.types import Message


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """What a LoRA run leaves: `base`, `run` with an adapter and its render contract, and the training file."""
    folder = tmp_path_factory.mktemp("session")
    tiny_model(folder / "base")
    tiny_adapter(folder / "run", folder / "base")
    lines = [f"model_name_or_path: {folder / 'base'}", f"output_dir: {folder / 'run'}", "finetuning_type: lora"]
    lines += ["stage: sft", "do_train: true", "dataset: identity", "template: chatml", "do_sample: false"]
    (folder / "train.yaml").write_text("\n".join([*lines, "max_new_tokens: 8", ""]))
    contract = open_session(resolved_for(folder, "output_dir=null")).renderer.contract()
    (folder / "run" / "render_contract.json").write_text(json.dumps(contract))
    return folder


def resolved_for(folder: Path, *arguments: str) -> Resolved:
    return resolve([str(folder / "train.yaml"), *arguments], verb="chat")


def answer(session: Session) -> tuple[int, ...]:
    prompt = session.renderer.prompt([Message("user", "Who are you?")])
    return session.engine.generate(prompt, sampling_from_config(session.config, session.renderer.stop_ids)).token_ids


def test_a_training_file_opens_the_tuned_model(run_folder: Path) -> None:
    said: list[str] = []
    tuned = open_session(resolved_for(run_folder), say=said.append)
    assert said == [f"talking to: {run_folder / 'base'} + adapter {run_folder / 'run'}"]
    assert answer(tuned) != answer(open_session(resolved_for(run_folder, "output_dir=null")))


def test_another_template_than_in_training_is_refused(run_folder: Path) -> None:
    with pytest.raises(TemplateError, match="trained with other tokens"):
        open_session(resolved_for(run_folder, "template=default"))


def test_without_a_template_named_it_is_the_one_that_the_model_was_trained_with(run_folder: Path) -> None:
    named = [f"model_name_or_path={run_folder / 'base'}", f"adapter_name_or_path={run_folder / 'run'}"]
    session = open_session(resolve(named, verb="chat"))
    assert session.renderer.template_name == "chatml"
    assert any("trained" in note and "chatml" in note for note in session.notes)
    assert session.engine.models == ("run", "base")


def test_further_adapters_are_served_beside_the_first(run_folder: Path) -> None:
    other = tiny_adapter(run_folder / "other", run_folder / "base", seed=5)
    session = open_session(resolved_for(run_folder, f"serve_adapters={json.dumps({'second': str(other)})}"))
    assert session.engine.models == ("run", "base", "second")
    prompt = session.renderer.prompt([Message("user", "Who are you?")])
    params = sampling_from_config(session.config, session.renderer.stop_ids)
    answers = {name: session.engine.generate(prompt, params, name).token_ids for name in session.engine.models}
    assert len(set(answers.values())) == 3
    with pytest.raises(ConfigError, match="the name is taken"):
        open_session(resolved_for(run_folder, f"serve_adapters={json.dumps({'base': str(other)})}"))
    with pytest.raises(ConfigError, match="no adapter_config"):
        open_session(resolved_for(run_folder, f"serve_adapters={json.dumps({'x': str(run_folder / 'base')})}"))


def test_a_model_that_would_never_stop_is_refused(run_folder: Path) -> None:
    with pytest.raises(TemplateError, match="no token that ends an answer"):
        open_session(resolved_for(run_folder, "template=empty", "output_dir=null"))


def test_an_adapter_that_changes_nothing_is_named(run_folder: Path) -> None:
    idle = tiny_adapter(run_folder / "idle", run_folder / "base", scale=0.0)
    session = open_session(resolved_for(run_folder, f"adapter_name_or_path={idle}"))
    assert any("changes nothing" in note for note in session.notes)
