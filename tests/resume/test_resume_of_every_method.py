"""For every training method: a run that died and was started again ends with the bytes of the unbroken run.

As in `test_resume_of_every_stage.py` the run dies by an exception out of the loop, two steps after a checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.methods import METHODS, WHOLE_MODELS
from tests.training import history, run_training, write_project

from tunesmith.errors import ResumeError
from tunesmith.train.loop import Loop

SETTINGS: dict[str, Any] = {
    "num_train_epochs": 2,
    "lora_dropout": 0.1,
    "save_strategy": "steps",
    "save_steps": 3,
    "micro_batch_tokens": 200,
}
ALL = {**METHODS, **WHOLE_MODELS}
MORE: dict[str, dict[str, Any]] = {
    "oft-dropout": {**METHODS["oft"], "module_dropout": 0.5},
    "pissa-bf16": {**METHODS["pissa-fast"], "bf16": True},
    "loftq-bf16": {**METHODS["loftq"], "bf16": True},
    "dora-bf16": {**METHODS["dora"], "bf16": True},
    "special-tokens-bf16": {**METHODS["special-tokens"], "bf16": True},
}


pytestmark = pytest.mark.slow  # two to three trainings each, 79 times


class Died(Exception):
    """Stands for the end of the process."""


def _die_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Loop._advance

    def dying(self: Loop, num_steps: int) -> None:
        advance(self, num_steps)
        if self.state.global_step == step:
            raise Died

    monkeypatch.setattr(Loop, "_advance", dying)


def _broken_and_resumed(project: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Path, Path]:
    """(the unbroken run, the run that died at step 5 and was started again)."""
    unbroken = run_training(project, "unbroken", **settings)
    with monkeypatch.context() as patch:
        _die_at(5, patch)
        with pytest.raises(Died):
            run_training(project, "broken", **settings)
    return unbroken, run_training(project, "broken", **settings)


def _file(run: Path) -> bytes:
    name = "adapter_model.safetensors" if (run / "adapter_model.safetensors").is_file() else "model.safetensors"
    return (run / name).read_bytes()


@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", [*ALL, *MORE])
def test_a_resumed_run_ends_with_the_same_bytes(
    name: str, is_tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path, num_rows=24, tie_word_embeddings=is_tied)
    unbroken, resumed = _broken_and_resumed(project, monkeypatch, **{**SETTINGS, **{**ALL, **MORE}[name]})
    assert _file(resumed) == _file(unbroken)
    assert history(resumed, "loss") == history(unbroken, "loss")
    assert len(history(resumed, "loss")) == 12
    folders = [{p.name for p in run.iterdir() if p.is_dir()} for run in (resumed, unbroken)]
    assert folders[0] == folders[1]


@pytest.mark.parametrize("create_new_adapter", [True, False])
@pytest.mark.parametrize("name", ["dora", "pissa", "loftq", "oft", "special-tokens"])
def test_adapters_on_top_of_others_resume_too(
    name: str, create_new_adapter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two earlier adapters; all but the last are merged, or all of them."""
    project, settings = write_project(tmp_path, num_rows=24), METHODS[name]
    if not create_new_adapter:
        settings = {key: value for key, value in settings.items() if not key.endswith("_init") and "token" not in key}
    first = run_training(project, "first", max_steps=2, lora_rank=2)
    second = run_training(
        project, "second", max_steps=2, finetuning_type=settings.get("finetuning_type", "lora"),
        adapter_name_or_path=first, create_new_adapter=True, oft_block_size=16,
    )  # fmt: skip
    unbroken, resumed = _broken_and_resumed(
        project,
        monkeypatch,
        **{
            **SETTINGS,
            **settings,
            "adapter_name_or_path": f"{first},{second}",
            "create_new_adapter": create_new_adapter,
        },
    )
    assert _file(resumed) == _file(unbroken)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ({}, {"use_dora": True}, "use_dora true"),
        ({}, {"use_rslora": True}, "use_rslora true"),
        ({"use_dora": True}, {}, "use_dora true"),
        ({"pissa_init": True}, {}, "pissa_init true"),
        ({"pissa_init": True}, {"pissa_init": True, "pissa_iter": 4}, "pissa_iter 4"),
        ({}, {"loftq_init": True}, "loftq_init true"),
        ({"loftq_init": True}, {"loftq_init": True, "loftq_bits": 8}, "loftq_bits 8"),
        ({}, {"rank_pattern": {"q_proj": 2}}, 'rank_pattern {"q_proj": 2}'),
        ({}, {"alpha_pattern": {"q_proj": 2}}, 'alpha_pattern {"q_proj": 2}'),
        ({}, {"lora_layers": "0"}, "lora_layers 0"),
        ({}, {"use_llama_pro": True, "freeze_trainable_layers": 1}, "use_llama_pro true"),
        ({}, {"additional_target": "lm_head"}, "additional_target lm_head"),
        ({}, {"add_tokens": "who are"}, "tokenizer"),
        ({}, {"finetuning_type": "oft"}, "oft of rank 0, blocks of 32"),
        ({"finetuning_type": "oft"}, {"finetuning_type": "oft", "oft_block_size": 16}, "blocks of 16"),
        ({"finetuning_type": "freeze"}, {"finetuning_type": "freeze", "freeze_trainable_layers": -2}, "-2 layers"),
        (
            {"finetuning_type": "freeze"},
            {"finetuning_type": "freeze", "freeze_extra_modules": "lm_head"},
            "freeze_extra_modules lm_head",
        ),
    ],
    ids=lambda value: str(value) if not isinstance(value, str) else "",
)
def test_another_method_is_refused_by_name(
    before: dict[str, Any], after: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path, num_rows=16)
    with monkeypatch.context() as patch:
        _die_at(4, patch)
        with pytest.raises(Died):
            run_training(project, "out", **{**SETTINGS, **before})
    with pytest.raises(ResumeError) as caught:
        run_training(project, "out", **{**SETTINGS, **after})
    assert named in caught.value.render()
