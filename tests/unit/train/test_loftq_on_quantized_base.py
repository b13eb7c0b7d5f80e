"""LoftQ on a base that is quantized while it is loaded: a start nearer to the original model, bound to that base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training import arguments, history, run_training, write_project

from tunesmith.config.resolve import resolve
from tunesmith.errors import ModelError
from tunesmith.export.merge import export
from tunesmith.infer.session import open_session
from tunesmith.train.loop import Loop

pytest.importorskip("bitsandbytes")
QLORA: dict[str, Any] = {"quantization_bit": 4, "lora_rank": 16, "max_steps": 4}
UNQUANTIZED: dict[str, Any] = {**QLORA, "quantization_bit": "null"}
LOFTQ: dict[str, Any] = {**QLORA, "loftq_init": True}


class Died(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("loftq"), num_rows=12)
    run_training(folder, "loftq", save_strategy="steps", save_steps=2, **LOFTQ)
    return folder


def test_the_first_loss_is_nearer_to_that_of_the_original_model(project: Path) -> None:
    original = history(run_training(project, "lora", **UNQUANTIZED), "loss")[0]
    plain = history(run_training(project, "qlora", **QLORA), "loss")[0]
    assert abs(history(project / "loftq", "loss")[0] - original) < abs(plain - original)


def test_it_is_talked_to_on_the_quantized_base_only(project: Path) -> None:
    assert open_session(resolve(arguments(project, "loftq", **LOFTQ), verb="chat")).located.adapters
    unquantized = arguments(project, "loftq", **{**LOFTQ, **UNQUANTIZED})
    with pytest.raises(ModelError, match="fits the quantized base only"):
        open_session(resolve(unquantized, verb="chat"))
    with pytest.raises(ModelError, match="fits the quantized base only"):
        export(resolve([*unquantized, f"export_dir={project / 'merged'}"], verb="export"))
    assert not (project / "merged").exists()


def test_an_adapter_that_goes_on_from_it_says_so_too(project: Path) -> None:
    run = run_training(project, "continued", adapter_name_or_path=project / "loftq", **QLORA)
    assert (run / "loftq.json").is_file()


def test_it_resumes_to_the_bit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**LOFTQ, "save_strategy": "steps", "save_steps": 2}
    advance = Loop._advance

    def dying(self: Loop, num_steps: int) -> None:
        advance(self, num_steps)
        if self.state.global_step == 3:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_advance", dying)
        with pytest.raises(Died):
            run_training(project, "broken", **settings)
    resumed = run_training(project, "broken", **settings)
    ours, theirs = (load_file(run / "adapter_model.safetensors") for run in (resumed, project / "loftq"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
