"""Each training method in a whole run: what it saves is loaded by plain PEFT, talked to, and exported with a proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import arguments, history, run_training, weights, write_project

from tunesmith.config.resolve import resolve
from tunesmith.export import merge, proof
from tunesmith.export.merge import export
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.locate import locate
from tunesmith.infer.session import open_session
from tunesmith.model.load import load_for_inference

MAX_STEPS = 3
PLAIN: dict[str, Any] = {}
METHODS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"pissa_init": True, "pissa_iter": -1},
    "pissa-rslora-patterns": {"pissa_init": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "loftq": {"loftq_init": True},
    "loftq-8": {"loftq_init": True, "loftq_bits": 8, "loftq_iter": 2},
    "rank-pattern": {"rank_pattern": {"q_proj": 8}},
    "alpha-pattern": {"alpha_pattern": {"0.mlp.up_proj": 32}},
    "layers": {"lora_layers": "-1"},
    "additional-target": {"additional_target": "embed_tokens"},
    "both-embeddings": {"additional_target": "embed_tokens,lm_head"},
    "oft": {"finetuning_type": "oft", "oft_block_size": 16},
    "tokens": {"add_tokens": "who are,assistant for"},
    "special-tokens": {"add_special_tokens": [f"<t{number}>" for number in range(70)]},  # beyond the spare rows
    "tokens-and-embeddings": {"add_special_tokens": "<a>", "additional_target": "embed_tokens,lm_head"},
}
ADAPTERS_ON_TIED = [name for name in METHODS if "oft" not in name]


def _settings(name: str) -> dict[str, Any]:
    """Lists as the command line takes them."""
    return {k: ",".join(v) if isinstance(v, list) else v for k, v in METHODS[name].items()}


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(
        tmp_path_factory.mktemp("methods"), num_rows=12, tie_word_embeddings=request.param, num_layers=2
    )


def _trained(project: Path, name: str) -> Path:
    run = project / name
    if not run.is_dir():
        run_training(project, name, max_steps=MAX_STEPS, learning_rate=5e-3, **_settings(name))
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
    resolved = resolve(arguments(project, name, **_settings(name)), verb="chat")
    located = locate(resolved)
    from dataclasses import replace

    return load_for_inference(replace(resolved.config, model_name_or_path=located.model), located.adapters)


@pytest.mark.parametrize("name", METHODS)
def test_chat_finds_the_model_of_the_training_file_and_of_the_adapter_alone(project: Path, name: str) -> None:
    run = _trained(project, name)
    params = SamplingParams(max_new_tokens=4, do_sample=False)
    answers = []
    for settings in (
        arguments(project, name, **_settings(name)),
        [f"model_name_or_path={project / 'model'}", f"adapter_name_or_path={run}", "template=chatml"],
    ):
        session = open_session(resolve(settings, verb="chat"))
        prompt = session.renderer.prompt([_user("who are you <t3>")])
        answers.append((prompt, session.engine.generate(prompt, params).token_ids))
    assert answers[0] == answers[1]


def _user(text: str) -> Any:
    from tunesmith.types import Message

    return Message("user", text)


@pytest.mark.parametrize("name", METHODS)
def test_an_export_is_proven(project: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "run_proof", _prove_here)
    _trained(project, name)
    target = project / f"{name}-merged"
    settings = arguments(project, name, **_settings(name))
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
