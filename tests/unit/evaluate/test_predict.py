"""Prediction end to end on a tiny model and a scripted engine: every row a line, resumed exactly, refused by name."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_engine import ScriptedEngine
from tests.tiny import tiny_model, tiny_tokenizer

from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError, DataError, ModelError, ResumeError
from tunesmith.evaluate import predict as module
from tunesmith.evaluate.answer import answer_rows
from tunesmith.evaluate.predict import predict
from tunesmith.infer.engine import EngineBusyError, SamplingParams, num_new_tokens
from tunesmith.infer.locate import Located
from tunesmith.infer.session import Session

ROWS = [
    {"instruction": "Who are you?", "input": "", "output": "I am a small assistant."},
    {"instruction": "Tell me a story. " * 30, "input": "", "output": "No."},
    {"instruction": "你是谁？", "input": "", "output": "我是一个小助手。"},
    {"instruction": "Say yes.", "input": "", "output": "Yes."},
]
FILES = ("generated_predictions.jsonl", "predict_results.json", "predict_state.json")


class Echo(ScriptedEngine):
    """Answers each prompt with its own length and seed, so that an answer tells what it was an answer to."""

    def __init__(self, context_length: int = 4096) -> None:
        super().__init__(tiny_tokenizer(), [""])
        self.context_length = context_length
        self._lock = threading.Lock()

    def submit(self, prompt_ids: Any, params: SamplingParams, deliver: Any, model: str | None = None) -> Any:
        num_new_tokens(len(prompt_ids), params, self.context_length)
        with self._lock:
            self.answers = [self.answer(prompt_ids, params)]
            return super().submit(prompt_ids, params, deliver, model)

    def answer(self, prompt_ids: Any, params: SamplingParams) -> str:
        return f"{len(prompt_ids)} {params.seed}"


class Knowing(Echo):
    """Answers each row as its label has it."""

    def answer(self, prompt_ids: Any, params: SamplingParams) -> str:
        asked = self.tokenizer.decode(prompt_ids)
        return next(row["output"] for row in ROWS if f"user\n{row['instruction']}<" in asked)


def interrupt_after(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when so many rows are answered."""

    def some(*args: Any) -> Any:
        for number, item in enumerate(answer_rows(*args)):
            if number == num_rows:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(module, "answer_rows", some)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    tiny_model(folder / "model")
    (folder / "rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (folder / "more.json").write_text(json.dumps(ROWS[:2]), encoding="utf-8")
    return folder


@pytest.fixture
def run(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Predict with an engine in place of the one that would be loaded; returns the output folder."""

    def go(engine: ScriptedEngine | None = None, *, verb: str = "predict", **settings: Any) -> Path:
        values = {
            "model_name_or_path": project / "model",
            "template": "chatml",
            "eval_dataset": project / "rows.json",
            "output_dir": tmp_path / "out",
            "max_new_tokens": 16,
            **settings,
        }
        resolved = resolve([f"{key}={value}" for key, value in values.items() if value is not None], verb=verb)
        answers = engine or Echo()

        def opened(asked: Any, say: Any) -> Session:
            located = Located(str(project / "model"), (), None, ())
            return Session(answers, module.open_renderer(asked.config, located), asked.config, located, ())

        monkeypatch.setattr(module, "open_session", opened)
        go.said = []
        assert predict(resolved, go.said.append) == 0
        return Path(values["output_dir"])

    return go


def lines_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "generated_predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def results_of(folder: Path, name: str = "predict_results.json") -> dict[str, float]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_every_row_has_a_line_in_the_order_of_the_rows(run: Callable[..., Path]) -> None:
    lines = lines_of(run())
    assert [line["row"] for line in lines] == [0, 1, 2, 3]
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert list(lines[0])[:3] == ["prompt", "predict", "label"]
    assert [line["label"] for line in lines] == [row["output"] for row in ROWS]
    first = lines[0]
    assert first["prompt"] == "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert first["predict"] == f"{first['num_prompt_tokens']} 42"
    assert first["finish_reason"] == "stop"
    assert first["file"].endswith("rows.json")
    assert first["num_new_tokens"] == len(tiny_tokenizer()(first["predict"])["input_ids"]) + 1


def test_a_row_draws_from_its_own_seed_whatever_the_order(run: Callable[..., Path]) -> None:
    engine = Echo()
    lines = lines_of(run(engine, seed=100))
    assert [line["predict"].split()[1] for line in lines] == ["100", "101", "102", "103"]
    lengths = [len(ids) for ids, _, _ in engine.asked]
    assert lengths == sorted(lengths, reverse=True), "the longest rows are asked first"
    assert all(params.temperature == 0.95 for _, params, _ in engine.asked)


def test_a_row_that_does_not_fit_has_a_line_with_the_reason(run: Callable[..., Path]) -> None:
    folder = run(Echo(context_length=100))
    lines = lines_of(folder)
    assert [line["finish_reason"] for line in lines] == ["stop", "unanswered", "stop", "stop"]
    assert lines[1]["predict"] == ""
    assert "does not fit" in lines[1]["why"]
    assert results_of(folder)["predict_num_unanswered"] == 1


def test_a_row_that_cannot_be_read_has_a_line_with_the_reason(run: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "half.jsonl"
    file.write_text(json.dumps(ROWS[0]) + '\n{"instruction": "Who?", "outp\n', encoding="utf-8")
    lines = lines_of(run(eval_dataset=file))
    assert [line["finish_reason"] for line in lines] == ["stop", "unanswered"]
    assert "JSON" in lines[1]["why"]
    assert lines[1]["line"] == 2
    with pytest.raises(DataError, match="1 of 2 rows"):
        run(eval_dataset=file, output_dir=tmp_path / "strict", on_bad_row="error")


def test_an_interrupted_prediction_goes_on_and_ends_as_an_unbroken_one(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(output_dir=tmp_path / "whole")
    interrupt_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(lines_of(tmp_path / "out")) == 3
    monkeypatch.setattr(module, "answer_rows", answer_rows)
    second = Echo()
    folder = run(second)
    assert len(second.asked) == 1
    for name in FILES[:1] + FILES[2:]:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_answered_rows_are_never_asked_again(run: Callable[..., Path]) -> None:
    folder = run()
    before = {name: (folder / name).read_bytes() for name in FILES}
    engine = Echo()
    run(engine)
    assert engine.asked == []
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_a_half_written_last_line_is_computed_anew(run: Callable[..., Path]) -> None:
    folder = run()
    file = folder / FILES[0]
    whole = file.read_bytes()
    for num_bytes in (1, 40):
        file.write_bytes(whole[:-num_bytes])
        engine = Echo()
        run(engine)
        assert len(engine.asked) == 1
        assert file.read_bytes() == whole


def test_a_half_written_line_is_gone_before_the_next_one_is_appended(tmp_path: Path) -> None:
    from tunesmith.evaluate.journal import open_journal

    first = open_journal(tmp_path, {}, 3)
    first.append({"row": 0})
    first.close()
    with (tmp_path / FILES[0]).open("a") as file:
        file.write('{"row": 1, "prom')
    second = open_journal(tmp_path, {}, 3)
    second.append({"row": 2})
    second.close()
    assert (tmp_path / FILES[0]).read_text() == '{"row": 0}\n{"row": 2}\n'


def test_damage_elsewhere_is_refused_with_its_line(run: Callable[..., Path]) -> None:
    file = run() / FILES[0]
    file.write_bytes(file.read_bytes().replace(b'"row": 1', b'"row": x'))
    with pytest.raises(ResumeError, match=r"generated_predictions\.jsonl:2 is damaged"):
        run()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.5}, "temperature: 0.95, now 0.5"),
        ({"seed": 1}, "seed: 42, now 1"),
        ({"default_system": "Be brief."}, "rows as tokens"),
        ({"max_samples": 3}, "number of rows: 4, now 3"),
        ({"infer_dtype": "bfloat16"}, "infer_dtype: auto, now bfloat16"),
    ],
)
def test_another_setting_is_refused_by_name(run: Any, settings: dict[str, Any], named: str) -> None:
    folder = run()
    before = (folder / FILES[0]).read_bytes()
    with pytest.raises(ResumeError) as caught:
        run(**settings)
    assert named in caught.value.why
    assert (folder / FILES[0]).read_bytes() == before
    engine = Echo()
    run(engine, overwrite_output_dir=True, **settings)
    assert len(engine.asked) == settings.get("max_samples", 4)
    assert any(named in line and "replacing" in line for line in run.said)


def test_another_model_and_other_data_are_refused_by_name(
    run: Callable[..., Path], project: Path, tmp_path: Path
) -> None:
    run()
    other = tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(ResumeError, match="base weights"):
        run(model_name_or_path=other)
    rows = [{**ROWS[0], "output": "changed"}, *ROWS[1:]]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(ResumeError, match=r"rows\.json"):
        run(eval_dataset=tmp_path / "rows.json")


def test_overwrite_goes_on_where_nothing_has_changed(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The public tool's example files all set it, and a killed prediction must not begin anew for that."""
    interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(overwrite_output_dir=True)
    monkeypatch.setattr(module, "answer_rows", answer_rows)
    engine = Echo()
    run(engine, overwrite_output_dir=True)
    assert len(engine.asked) == 2
    anew = Echo()
    run(anew, resume_from_checkpoint=False)
    assert len(anew.asked) == 4


def test_predictions_of_unknown_origin_are_refused(run: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILES[0]).write_text('{"prompt": "a", "predict": "b", "label": "c"}\n', encoding="utf-8")
    with pytest.raises(ResumeError, match="nothing is known"):
        run()


def test_two_processes_cannot_write_one_file(run: Callable[..., Path], tmp_path: Path) -> None:
    from tunesmith.evaluate.journal import open_journal

    one = open_journal(tmp_path, {"a": "b"}, 2)
    with pytest.raises(ResumeError, match="another process"):
        open_journal(tmp_path, {"a": "b"}, 2)
    one.append({"row": 0})
    one.close()
    assert list(open_journal(tmp_path, {"a": "b"}, 2).lines) == [0]


def test_an_engine_that_fails_leaves_what_is_done(run: Callable[..., Path], tmp_path: Path) -> None:
    class Broken(Echo):
        def submit(self, prompt_ids: Any, params: Any, deliver: Any, model: str | None = None) -> Any:
            if len(self.asked) < 2:
                return super().submit(prompt_ids, params, deliver, model)
            deliver(ModelError("the server died"))
            return super().submit(prompt_ids, params, lambda event: None, model)

    with pytest.raises(ModelError, match="the server died"):
        run(Broken())
    kept = len(lines_of(tmp_path / "out")) if (tmp_path / "out" / FILES[0]).is_file() else 0
    engine = Echo()
    run(engine)
    assert len(engine.asked) == 4 - kept


def test_several_datasets_are_named_and_judged_apart(run: Callable[..., Path], project: Path) -> None:
    folder = run(eval_dataset=f"{project / 'rows.json'},{project / 'more.json'}")
    lines = lines_of(folder)
    assert [Path(line["dataset"]).stem for line in lines] == ["rows"] * 4 + ["more"] * 2
    assert [line["row"] for line in lines] == list(range(6))
    found = results_of(folder)
    assert found["predict_num_rows"] == 6
    assert (found["predict_rows_num_rows"], found["predict_more_num_rows"]) == (4, 2)
    assert "predict_more_bleu-4" in found


def test_results_join_those_of_the_training(run: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "all_results.json").write_text('{"train_loss": 1.5, "predict_old": 1}', encoding="utf-8")
    found = results_of(run(), "all_results.json")
    assert found["train_loss"] == 1.5
    assert "predict_old" not in found
    assert {"predict_bleu-4", "predict_rouge-l", "predict_runtime", "predict_samples_per_second"} <= found.keys()


def test_right_answers_are_judged_so(run: Callable[..., Path]) -> None:
    found = results_of(run(Knowing()))
    assert found["predict_exact_match_percent"] == 100
    assert found["predict_rouge-1"] == 100
    assert found["predict_stopped_percent"] == 100


def test_an_answer_at_the_token_limit_counts_as_cut(run: Callable[..., Path]) -> None:
    folder = run(ScriptedEngine(tiny_tokenizer(), ["I can answer questions and write text."]), max_new_tokens=2)
    assert {line["finish_reason"] for line in lines_of(folder)} == {"length"}
    assert results_of(folder)["predict_cut_percent"] == 100


def test_a_missing_package_is_told_before_anything_is_asked(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.evaluate import text_metrics

    monkeypatch.setattr(text_metrics.importlib.util, "find_spec", lambda name: None if name == "jieba" else name)
    engine = Echo()
    with pytest.raises(ConfigError, match="jieba") as caught:
        run(engine)
    assert caught.value.fix == 'pip install "tunesmith[metrics]"'
    assert engine.asked == []


def test_prompts_without_labels_need_no_metrics(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.evaluate import text_metrics

    monkeypatch.setattr(text_metrics.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "asked.json").write_text(json.dumps([{"instruction": "Who?"}, {"instruction": "What?"}]))
    folder = run(eval_dataset=tmp_path / "asked.json")
    assert [line["has_label"] for line in lines_of(folder)] == [False, False]
    found = results_of(folder)
    assert found["predict_num_labels"] == 0
    assert "predict_bleu-4" not in found


def test_a_full_engine_is_waited_for_and_nothing_is_lost() -> None:
    from tunesmith.evaluate.rows import PredictRow
    from tunesmith.types import RowRef

    class Small(Echo):
        def submit(self, prompt_ids: Any, params: Any, deliver: Any, model: str | None = None) -> Any:
            if self.num_asked >= 1 and self.num_asked - self.num_done >= 2:
                raise EngineBusyError(2, 1)
            self.num_asked += 1

            def counting(event: Any) -> None:
                self.num_done += event.finish_reason is not None
                deliver(event)

            return super().submit(prompt_ids, params, counting, model)

        num_asked = num_done = 0

    rows = [PredictRow(n, RowRef("d", "f", n, n), (5,) * (1 + n % 3), None, "bad" if n == 4 else "") for n in range(12)]
    found = {row.number: answer for row, answer in answer_rows(Small(), rows, SamplingParams(stop_ids=(2,), seed=0))}
    assert sorted(found) == list(range(12))
    assert found[4] == "bad"


def test_no_more_rows_than_allowed_are_in_flight() -> None:
    from tunesmith.evaluate.rows import PredictRow
    from tunesmith.types import RowRef

    engine = ScriptedEngine(tiny_tokenizer(), ["Yes."], hold=True)
    rows = [PredictRow(n, RowRef("d", "f", n, n), (5,), None) for n in range(9)]
    answers = answer_rows(engine, rows, SamplingParams(stop_ids=(2,)), num_in_flight=4)
    taken = threading.Thread(target=lambda: next(answers), daemon=True)
    taken.start()
    taken.join(0.3)
    assert taken.is_alive()
    assert len(engine.asked) == 4
    engine.release(100)
    taken.join(10)
    answers.close()
    assert sum(ticket.cancelled.is_set() for ticket in engine.tickets) == len(engine.tickets) - 1


def test_documents_are_continued(run: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "pages.json").write_text(json.dumps([{"text": "The quick brown"}, {"text": "I am"}]))
    engine = Echo()
    folder = run(engine, stage="pt", eval_dataset=tmp_path / "pages.json")
    lines = lines_of(folder)
    assert [line["prompt"] for line in lines] == ["The quick brown", "I am"]
    assert [line["has_label"] for line in lines] == [False, False]


def test_pairs_are_compared_with_the_better_answer_and_thumbs_down_with_none(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    pair = {"conversations": [{"from": "human", "value": "Who?"}]}
    pair |= {"chosen": {"from": "gpt", "value": "Ada."}, "rejected": {"from": "gpt", "value": "No."}}
    registry = {
        "pairs": {
            "file_name": "pairs.json",
            "ranking": True,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        },
        "thumbs": {"file_name": "thumbs.json", "columns": {"kto_tag": "label", "response": "output"}},
    }
    registry["thumbs"]["columns"]["prompt"] = "instruction"
    thumbs = [{"instruction": "Who?", "output": text, "label": good} for text, good in (("Ada.", True), ("No.", False))]
    for name, value in (("pairs", [pair]), ("thumbs", thumbs), ("dataset_info", registry)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    settings = {"dataset_dir": tmp_path, "output_dir": tmp_path / "dpo"}
    assert lines_of(run(stage="dpo", eval_dataset="pairs", **settings))[0]["label"] == "Ada."
    settings["output_dir"] = tmp_path / "kto"
    kto = lines_of(run(stage="kto", eval_dataset="thumbs", **settings))
    assert [(line["label"], line["has_label"]) for line in kto] == [("Ada.", True), ("", False)]


def test_the_held_out_rows_are_those_that_training_does_not_see(
    run: Callable[..., Path], project: Path, tmp_path: Path
) -> None:
    from tunesmith.data.prepare import prepare
    from tunesmith.infer.session import open_renderer

    many = [{**ROWS[0], "instruction": f"Who are you, {n}?"} for n in range(20)]
    (tmp_path / "many.json").write_text(json.dumps(many), encoding="utf-8")
    settings = {"eval_dataset": None, "dataset": tmp_path / "many.json", "val_size": 5}
    lines = lines_of(run(do_predict=True, **settings))
    argv = [f"model_name_or_path={project / 'model'}", "template=chatml", f"output_dir={tmp_path / 'train'}"]
    argv += [f"{key}={value}" for key, value in settings.items() if value is not None]
    config = replace(resolve(argv, verb="train").config)
    renderer = open_renderer(config, Located(str(project / "model"), (), None, ()))
    trained = prepare(config, renderer, tmp_path, need_eval=True).train
    seen = {trained.ref(index).index for index in range(len(trained))}
    assert sorted(seen | {line["index"] for line in lines}) == list(range(20))
    assert not seen & {line["index"] for line in lines}
    assert len(lines) == 5
