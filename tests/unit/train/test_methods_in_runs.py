"""Each training method in a whole run: what it saves is loaded by plain PEFT, talked to, and exported with a proof."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods import METHODS
from tests.training import arguments, run_training, write_project

from tunesmith.config.resolve import resolve
from tunesmith.export import merge, proof
from tunesmith.export.merge import export
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.locate import locate
from tunesmith.infer.session import open_session
from tunesmith.model.load import load_for_inference
from tunesmith.types import Message

MAX_STEPS = 3


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(
        tmp_path_factory.mktemp("methods"), num_rows=12, tie_word_embeddings=request.param, num_layers=2
    )


def _trained(project: Path, name: str) -> Path:
    run = project / name
    if not run.is_dir():
        run_training(project, name, max_steps=MAX_STEPS, learning_rate=5e-3, **METHODS[name])
    return run


def _is_tied(project: Path) -> bool:
    return json.loads((project / "model" / "config.json").read_text())["tie_word_embeddings"]


def _logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits.float()


@pytest.mark.parametrize("name", METHODS)
def test_plain_peft_loads_what_a_run_saved(project: Path, name: str) -> None:
    """No code of this project: the base that the adapter names, enlarged when it has new rows, and PeftModel."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    run = _trained(project, name)
    base = AutoModelForCausalLM.from_pretrained(PeftConfig.from_pretrained(str(run)).base_model_name_or_path)
    own = _logits(_as_loaded(project, name))
    if own.shape[-1] != base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(own.shape[-1])
    plain = _logits(PeftModel.from_pretrained(base, str(run)))
    assert torch.equal(plain, own)


def _as_loaded(project: Path, name: str) -> Any:
    resolved = resolve(arguments(project, name, **METHODS[name]), verb="chat")
    located = locate(resolved)
    return load_for_inference(replace(resolved.config, model_name_or_path=located.model), located.adapters)


@pytest.mark.parametrize("name", METHODS)
def test_chat_finds_the_model_of_the_training_file_and_of_the_adapter_alone(project: Path, name: str) -> None:
    run = _trained(project, name)
    params = SamplingParams(max_new_tokens=4, do_sample=False)
    answers = []
    for settings in (
        arguments(project, name, **METHODS[name]),
        [f"model_name_or_path={project / 'model'}", f"adapter_name_or_path={run}", "template=chatml"],
    ):
        session = open_session(resolve(settings, verb="chat"))
        prompt = session.renderer.prompt([Message("user", "who are you <t3>")])
        answers.append((prompt, session.engine.generate(prompt, params).token_ids))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", METHODS)
def test_an_export_is_proven(project: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "run_proof", _prove_here)
    _trained(project, name)
    target = project / f"{name}-merged"
    settings = arguments(project, name, **METHODS[name])
    assert export(resolve([*settings, f"export_dir={target}"], verb="export")) == 0
    found = json.loads((target / "proof.json").read_text())
    assert found["problems"] == []
    assert found["tied_embeddings"] is _is_tied(project)


def _prove_here(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The proof in this process, which takes a second instead of ten."""
    file = folder.with_name(f"{folder.name}.task.json")
    file.write_text(json.dumps(task), encoding="utf-8")
    assert proof.main([str(file), str(folder)]) == 0
    return json.loads((folder / "proof.json").read_text())
