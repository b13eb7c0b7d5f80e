"""The engine on llama.cpp gives the built-in engine's answers, alone or in company, and opens only what fits."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model, tiny_tokenizer
from tests.tiny_gguf import tiny_gguf

from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError, ModelError
from tunesmith.infer import llamacpp
from tunesmith.infer.engine import EngineBusyError, SamplingParams
from tunesmith.infer.hf import HFEngine
from tunesmith.infer.llamacpp import LlamaCppEngine
from tunesmith.infer.llamacpp_native import NativeModel
from tunesmith.infer.session import open_session
from tunesmith.model.plain import load_plain_model, load_plain_tokenizer
from tunesmith.types import Message

GREEDY = SamplingParams(max_new_tokens=10, do_sample=False, stop_ids=(2,))
TEXTS = ("Who are you?", "Tell me your name, please.", "你是谁？", "1 + 2 =", "Hello! Goodbye!")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tiny_model(tmp_path_factory.mktemp("engine") / "base")
    tiny_gguf(path, path / "only.gguf")
    (path / "gguf").mkdir()
    (path / "only.gguf").rename(path / "gguf" / "model.gguf")
    tiny_tokenizer(path / "gguf")
    return path


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[list[int]]:
    return [load_plain_tokenizer(folder)(text)["input_ids"] for text in TEXTS]


def make_engine(folder: Path, num_slots: int = 2) -> LlamaCppEngine:
    native = NativeModel(folder / "gguf" / "model.gguf", num_slots=num_slots, max_length=64)
    return LlamaCppEngine(native, num_slots, load_plain_tokenizer(folder), {"tiny": None})


@pytest.fixture
def engine(folder: Path):
    made = make_engine(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(folder: Path) -> HFEngine:
    return HFEngine(load_plain_model(folder, torch.float32), load_plain_tokenizer(folder))


def test_greedy_and_seeded_answers_are_those_of_the_simple_engine(
    engine: LlamaCppEngine, reference: HFEngine, prompts: list[list[int]]
) -> None:
    seeded = SamplingParams(max_new_tokens=10, seed=3, temperature=0.7, repetition_penalty=1.2, presence_penalty=0.5)
    for params in (GREEDY, seeded):
        for prompt in prompts:
            assert engine.generate(prompt, params) == reference.generate(prompt, params)


def test_an_answer_does_not_depend_on_its_company(engine: LlamaCppEngine, prompts: list[list[int]]) -> None:
    alone = [engine.generate(prompt, GREEDY) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: engine.generate(prompt, GREEDY), prompts))
    assert together == alone
    assert len({answer.token_ids for answer in alone}) > 1


def test_a_next_turn_reads_only_what_is_new(engine: LlamaCppEngine, prompts: list[list[int]]) -> None:
    first = engine.generate(prompts[0], GREEDY)
    follow_up = [*prompts[0], *first.token_ids, *prompts[1]]
    before = engine.figures()["cached_tokens_total"]
    answer = engine.generate(follow_up, GREEDY)
    # the last token of an answer was chosen, but never read
    assert engine.figures()["cached_tokens_total"] - before == len(prompts[0]) + len(first.token_ids) - 1
    engine.generate(prompts[3], GREEDY)
    engine.generate(prompts[4], GREEDY)
    assert engine.generate(follow_up, GREEDY) == answer


def test_scores_are_the_log_probabilities_of_the_stream(
    engine: LlamaCppEngine, reference: HFEngine, prompts: list[list[int]]
) -> None:
    params = SamplingParams(max_new_tokens=8, do_sample=False, num_logprobs=2)
    pieces = list(engine.stream(prompts[0], params))
    ids = [*prompts[0], *(piece.token_id for piece in pieces)]
    scores = engine.score(ids, len(prompts[0]))
    assert scores == pytest.approx([piece.logprob for piece in pieces], abs=1e-3)
    assert scores == pytest.approx(reference.score(ids, len(prompts[0])), abs=1e-2)
    assert [piece.alternatives[0][0] for piece in pieces] == [piece.token_id for piece in pieces]
    with pytest.raises(ModelError, match="nothing before"):
        engine.score(ids, 0)


def test_scoring_a_text_in_parts_gives_the_same(
    engine: LlamaCppEngine, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [*prompts[0], *prompts[1]]
    whole = engine.score(ids, 2)
    monkeypatch.setattr(llamacpp, "_SCORED_TOKENS", 5)
    assert engine.score(ids, 2) == pytest.approx(whole, abs=1e-4)


def test_a_stop_text_ends_an_answer_and_is_not_shown(engine: LlamaCppEngine, prompts: list[list[int]]) -> None:
    text = engine.generate(prompts[0], GREEDY).text
    stop = text[2:4]
    ended = engine.generate(prompts[0], SamplingParams(max_new_tokens=10, do_sample=False, stop=(stop,)))
    assert (ended.text, ended.finish_reason) == (text[: text.index(stop)], "stop")


def test_a_cancelled_request_frees_its_slot(
    folder: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(folder, num_slots=1)
    decode = engine._native.decode

    def slowly(pieces: Any) -> Any:  # else all fifty tokens may be there before this thread is woken
        time.sleep(0.02)
        return decode(pieces)

    monkeypatch.setattr(engine._native, "decode", slowly)
    stream = engine.stream(prompts[0], SamplingParams(max_new_tokens=50, do_sample=False))
    next(stream)
    stream.close()
    assert len(engine.generate(prompts[1], GREEDY).token_ids) == 10
    figures = engine.figures()
    assert (figures["running"], figures["cancelled_total"], figures["answers_total"]) == (0, 1, 1)
    assert engine.figures()["answer_tokens_total"] < 50
    engine.close()


def test_what_cannot_be_answered_is_refused_at_once(
    folder: Path, engine: LlamaCppEngine, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="there is no model 'other' here"):
        engine.generate(prompts[0], GREEDY, model="other")
    with pytest.raises(ModelError, match="does not fit"):
        engine.generate([5] * 64, GREEDY)
    monkeypatch.setattr(llamacpp, "MAX_WAITING", 0)
    with pytest.raises(EngineBusyError):
        engine.generate(prompts[0], GREEDY)


def test_closing_ends_what_runs_and_a_closed_engine_says_so(folder: Path, prompts: list[list[int]]) -> None:
    engine = make_engine(folder, num_slots=1)
    events: list[object] = []
    ended = threading.Event()

    def deliver(event: object) -> None:
        events.append(event)
        if isinstance(event, Exception):
            ended.set()
        time.sleep(0.02)

    engine.submit(prompts[0], SamplingParams(max_new_tokens=50, do_sample=False), deliver)
    engine.submit(prompts[1], GREEDY, deliver)
    engine.close()
    engine.close()
    assert ended.wait(2)
    assert sum(isinstance(event, ModelError) for event in events) == 2
    with pytest.raises(ModelError, match="closed"):
        engine.generate(prompts[0], GREEDY)


def test_a_fault_of_the_engine_leaves_nobody_waiting(
    folder: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(folder)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(engine, "_answer", None)
    with pytest.raises(ModelError, match="closed"):
        engine.generate(prompts[0], GREEDY)
    engine.close()


def opened(model: Path, *arguments: str):
    return open_session(resolve([f"model_name_or_path={model}", "infer_backend=llamacpp", *arguments], verb="chat"))


def test_a_gguf_folder_opens_as_a_session(folder: Path, reference: HFEngine) -> None:
    session = opened(folder / "gguf", "llamacpp_maxlen=128", "llamacpp_slots=2")
    prompt = session.renderer.prompt([Message("user", "Who are you?")])
    assert session.engine.generate(prompt, GREEDY) == reference.generate(prompt, GREEDY)
    assert (session.engine.models, session.engine.context_length) == (("model",), 128)
    assert any("keeps 128 tokens per request, the model was trained with 512" in note for note in session.notes)
    session.engine.close()


def test_what_is_not_gguf_is_refused_with_the_way_to_make_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds none") as error:
        opened(folder)
    assert "export_format=gguf" in str(error.value.fix)
    with pytest.raises(ModelError, match="is not there"):
        opened(tmp_path / "nowhere")


def test_another_models_tokenizer_beside_the_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(folder / "gguf" / "model.gguf")
    tiny_tokenizer(tmp_path, vocab=300)
    with pytest.raises(ModelError, match="is not that of the file"):
        opened(tmp_path)


def test_settings_of_llamacpp_are_bounded() -> None:
    with pytest.raises(ConfigError, match="llamacpp_slots"):
        resolve(["model_name_or_path=x", "llamacpp_slots=0"], verb="chat")
