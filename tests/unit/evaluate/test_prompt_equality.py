"""One row, one prompt: prediction feeds the tokens that training has before the answer, and that chat feeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.training import arguments, rows, write_project

from tunesmith.config.resolve import resolve
from tunesmith.data.prepare import prepare
from tunesmith.evaluate.predict import predict
from tunesmith.evaluate.rows import read_rows
from tunesmith.infer.engine import sampling_from_config
from tunesmith.infer.session import open_session
from tunesmith.types import Message


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("equal"), num_rows=12)


def settings(project: Path, **more: Any) -> list[str]:
    own = {"do_train": False, "do_predict": True, "dataset": "null", "eval_dataset": "rows", "do_sample": False}
    return arguments(project, **{**own, "max_new_tokens": 12, "finetuning_type": "full", **more})


def test_prompt_ids_are_the_renderer_s_and_begin_the_training_example(project: Path) -> None:
    session = open_session(resolve([*settings(project), "output_dir=null"], verb="chat"))
    train = resolve(
        settings(project, dataset="rows", eval_dataset="null", do_train=True, do_predict=False), verb="train"
    ).config
    examples = prepare(train, session.renderer, project, need_eval=False).train
    asked = read_rows(session.config, session.renderer, project).rows
    assert len(asked) == len(examples) == 12
    for row, source in zip(asked, rows(12), strict=True):
        ids, weights = examples.example(row.number)
        assert row.prompt_ids == session.renderer.prompt([Message("user", source["instruction"])])
        assert tuple(ids[: len(row.prompt_ids)]) == row.prompt_ids
        assert not weights[: len(row.prompt_ids)].any()
        assert weights[len(row.prompt_ids) :].all(), "the answer begins right behind it"
        assert row.label == source["output"]
    session.engine.close()


def test_greedy_answers_are_those_of_chat(project: Path, tmp_path: Path) -> None:
    resolved = resolve([*settings(project), f"output_dir={tmp_path}"], verb="predict")
    assert predict(resolved, lambda line: None) == 0
    lines = [json.loads(line) for line in (tmp_path / "generated_predictions.jsonl").read_text().splitlines()]
    session = open_session(resolve([*settings(project), "output_dir=null"], verb="chat"))
    params = sampling_from_config(session.config, session.renderer.stop_ids)
    for line, source in zip(lines, rows(12), strict=True):
        told = session.engine.generate(session.renderer.prompt([Message("user", source["instruction"])]), params)
        assert (line["predict"], line["finish_reason"]) == (told.text, told.finish_reason)
        assert line["num_new_tokens"] == len(told.token_ids)
    assert len({line["predict"] for line in lines}) > 1
    session.engine.close()
