"""Each training method in a whole run: what it saves is loaded by plain PEFT, talked to, and exported with a proof."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods import METHODS, WHOLE_MODELS
from tests.training import arguments, run_training, write_project

from tunesmith.config.resolve import resolve
from tunesmith.export import merge, proof
from tunesmith.export.merge import export
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.locate import locate
from tunesmith.infer.session import open_session
from tunesmith.model.load import load_for_inference
from tunesmith.model.save import save_weights
from tunesmith.train import run as run_module
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
        settings = {**METHODS, **WHOLE_MODELS}[name]
        run_training(project, name, max_steps=MAX_STEPS, learning_rate=5e-3, **settings)
    return run


def _is_tied(project: Path) -> bool:
    return json.loads((project / "model" / "config.json").read_text())["tie_word_embeddings"]


def _logits(model: Any, **options: Any) -> torch.Tensor:
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids, **options).logits.float()


@pytest.mark.parametrize("name", [*METHODS, *WHOLE_MODELS])
def test_what_was_trained_is_what_is_loaded(project: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model in memory when a run ends, against the model that a chat with its files is held with."""
    in_memory: list[torch.Tensor] = []

    def saving(model: Any, folder: Path) -> None:
        save_weights(model, folder)
        in_memory.append(_logits(model, document_bounds=((0, 37),), use_cache=False))

    monkeypatch.setattr(run_module, "save_weights", saving)
    settings = {**METHODS, **WHOLE_MODELS}[name]
    run_training(project, f"{name}-watched", max_steps=MAX_STEPS, learning_rate=5e-3, **settings)
    loaded = _logits(_as_loaded(project, f"{name}-watched", settings))
    assert len(in_memory) == 1
    assert torch.allclose(loaded, in_memory[0], atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_plain_peft_loads_what_a_run_saved(project: Path, name: str) -> None:
    """No code of this project: the base that the adapter names, enlarged when it has new rows, and PeftModel."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    run = _trained(project, name)
    base = AutoModelForCausalLM.from_pretrained(PeftConfig.from_pretrained(str(run)).base_model_name_or_path)
    own = _logits(_as_loaded(project, name, METHODS[name]))
    if own.shape[-1] != base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(own.shape[-1])
    plain = _logits(PeftModel.from_pretrained(base, str(run)))
    assert torch.equal(plain, own)


def _as_loaded(project: Path, output: str, settings: dict[str, Any]) -> Any:
    resolved = resolve(arguments(project, output, **settings), verb="chat")
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


@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_a_whole_model_is_plain_transformers_and_exported(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(merge, "run_proof", _prove_here)
    run = _trained(project, name)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is _is_tied(project)
    if "tokens" in name:
        assert len(model.lm_head.weight) == 576
        assert tokenizer("<t69>", add_special_tokens=False)["input_ids"] == [494 + 69]
    assert torch.equal(_logits(_as_loaded(project, name, WHOLE_MODELS[name])), _logits(model))
    target = project / f"{name}-merged"
    settings = arguments(project, name, **WHOLE_MODELS[name])
    assert export(resolve([*settings, f"export_dir={target}"], verb="export")) == 0


@pytest.mark.parametrize("last", ["pissa", "dora", "loftq", "special-tokens", "oft"])
def test_earlier_adapters_act_wherever_the_last_one_does(
    project: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new adapter on two earlier ones: chat and export merge those first, as training did."""
    monkeypatch.setattr(merge, "run_proof", _prove_here)
    earlier = [_trained(project, name) for name in ("rslora", "tokens")]
    settings = {
        **METHODS[last],
        "adapter_name_or_path": ",".join(str(run) for run in earlier),
        "create_new_adapter": True,
    }
    name = f"on-two-{last}"
    run = run_training(project, name, max_steps=MAX_STEPS, learning_rate=5e-3, **settings)
    file = project / f"{name}.yaml"
    file.write_text("\n".join(line.replace("=", ": ", 1) for line in arguments(project, name, **settings)))
    resolved = resolve([str(file)], verb="chat")
    located = locate(resolved)
    model = load_for_inference(replace(resolved.config, model_name_or_path=located.model), located.adapters)
    named = [
        f"model_name_or_path={project / 'model'}",
        f"adapter_name_or_path={settings['adapter_name_or_path']},{run}",
    ]
    by_name = resolve([*named, "template=chatml"], verb="chat")
    place = locate(by_name)
    again = load_for_inference(replace(by_name.config, model_name_or_path=place.model), place.adapters)
    assert torch.equal(_logits(model), _logits(again))
    assert export(resolve([str(file), f"export_dir={project / f'{name}-merged'}"], verb="export")) == 0


def test_an_adapter_is_continued_on_top_of_the_merged_ones(project: Path) -> None:
    """All but the last are merged; the last one goes on, with the shape that it was made with."""
    first, second = _trained(project, "rslora"), _trained(project, "dora")
    run = run_training(project, "continued", max_steps=1, adapter_name_or_path=f"{first},{second}", lora_rank=64)
    before, after = (json.loads((folder / "adapter_config.json").read_text()) for folder in (second, run))
    assert (after["r"], after["use_dora"]) == (before["r"], before["use_dora"]) == (4, True)
