"""vLLM and SGLang as engines, against fakes of their HTTP: requests, events, processes."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests import fake_servers
from tests.tiny import tiny_adapter, tiny_model, tiny_tokenizer

from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError, ModelError
from tunesmith.infer import sglang, vllm
from tunesmith.infer.engine import Grammar, SamplingParams, StreamPiece
from tunesmith.infer.locate import Located
from tunesmith.infer.remote import RemoteEngine
from tunesmith.infer.serving import as_flags

KINDS = ("vllm", "sglang")
FAKE = Path(fake_servers.__file__)
STOP = 2
PARAMS = SamplingParams(max_new_tokens=40, stop_ids=(STOP,), seed=7)


class Renderer:
    """All that an engine needs of a renderer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_adapter(folder / "tuned", tiny_model(folder / "base"))
    return folder


class Bench:
    """Opens engines whose servers are fakes, tells what these saw, and ends everything."""

    def __init__(self, state: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.models = state, models
        self.tokenizer = tiny_tokenizer()
        self.engines: list[RemoteEngine] = []
        monkeypatch.setattr(vllm, "vllm_command", self._instead(vllm.vllm_command, "vllm"))
        monkeypatch.setattr(sglang, "sglang_command", self._instead(sglang.sglang_command, "sglang"))
        monkeypatch.setattr("tunesmith.infer.serving._has_package", lambda name: True)
        self.script(answers=[self.ids("I am small.")])

    def _instead(self, command: Any, kind: str) -> Any:
        def fake(*args: Any) -> list[str]:
            real = command(*args)
            return [sys.executable, str(FAKE), kind, str(self.state), *real[2 if kind == "vllm" else 3 :]]

        return fake

    def ids(self, text: str, *, stop: bool = True) -> list[int]:
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], *([STOP] if stop else [])]

    def script(self, **values: Any) -> None:
        (self.state / "answers.json").write_text(json.dumps(values), encoding="utf-8")

    def seen(self, what: str) -> list[Any]:
        file = self.state / "seen.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [value[what] for value in map(json.loads, lines) if what in value]

    def open(self, kind: str, *arguments: str, adapters: int = 1) -> tuple[RemoteEngine, list[str]]:
        argv = [f"model_name_or_path={self.models / 'base'}", f"infer_backend={kind}", *arguments]
        config = resolve(argv, verb="chat").config
        located = Located(str(self.models / "base"), (str(self.models / "tuned"),) * adapters, None, ())
        opener = {"vllm": vllm.open_vllm, "sglang": sglang.open_sglang}[kind]
        engine, notes = opener(config, located, Renderer(self.tokenizer))
        self.engines.append(engine)
        return engine, notes

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


@pytest.fixture
def bench(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = Bench(tmp_path, models, monkeypatch)
    yield made
    made.close()


def wait_for(condition: Any, timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_comes_as_tokens_and_its_text_is_made_here(bench: Bench, kind: str) -> None:
    engine, _ = bench.open(kind)
    bench.script(answers=[bench.ids("你是谁？ I am 😀.")], per_event=3)
    done = engine.generate((5, 6, 7), PARAMS)
    assert done.text == "你是谁？ I am 😀."
    assert list(done.token_ids) == bench.ids("你是谁？ I am 😀.")
    assert done.finish_reason == "stop"
    assert engine.models == ("tuned", "base")
    wait_for(lambda: engine.figures()["requests_total"] == 1)


def test_vllm_is_sent_ids_and_every_setting(bench: Bench) -> None:
    engine, _ = bench.open("vllm")
    params = SamplingParams(
        max_new_tokens=9, temperature=0.5, top_p=0.8, top_k=11, repetition_penalty=1.1, seed=3, stop_ids=(2, 0),
        presence_penalty=0.25, frequency_penalty=-0.5, logit_bias=((17, -100.0),), stop=("!!",), num_logprobs=2,
        grammar=Grammar("regex", "[a-z]+"),
    )  # fmt: skip
    engine.generate((5, 6), params)
    engine.generate((5, 6), SamplingParams(do_sample=False, stop_ids=(2,)), model="base")
    (drawn, greedy) = bench.seen("request")
    assert drawn["path"] == "/v1/completions"
    assert drawn["body"] == {
        "model": "tuned", "prompt": [5, 6], "max_tokens": 9, "stream": True, "return_token_ids": True,
        "temperature": 0.5, "top_p": 0.8, "top_k": 11, "min_p": 0.0, "repetition_penalty": 1.1,
        "presence_penalty": 0.25, "frequency_penalty": -0.5, "stop_token_ids": [2, 0], "ignore_eos": True,
        "stop": ["!!"], "include_stop_str_in_output": True, "skip_special_tokens": False, "seed": 3,
        "logit_bias": {"17": -100.0}, "logprobs": 2, "return_tokens_as_token_ids": True,
        "structured_outputs": {"regex": "[a-z]+"},
    }  # fmt: skip
    assert greedy["body"]["model"] == "base"
    assert {key: greedy["body"][key] for key in ("temperature", "top_p", "top_k", "max_tokens")} == {
        "temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 1024,
    }  # fmt: skip
    assert not {"seed", "logprobs", "structured_outputs", "logit_bias"} & greedy["body"].keys()


def test_sglang_is_sent_ids_and_every_setting(bench: Bench) -> None:
    engine, _ = bench.open("sglang")
    params = SamplingParams(
        max_new_tokens=9, temperature=0.5, top_p=0.8, top_k=0, repetition_penalty=1.1, seed=3, stop_ids=(2, 0),
        presence_penalty=0.25, frequency_penalty=-0.5, logit_bias=((17, -100.0),), stop=("!!",), num_logprobs=2,
        grammar=Grammar("json_schema", '{"type": "object"}'),
    )  # fmt: skip
    engine.generate((5, 6), params)
    engine.generate((5, 6), SamplingParams(do_sample=False, stop_ids=(2,)), model="base")
    (drawn, greedy) = bench.seen("request")
    assert drawn["path"] == "/generate"
    assert drawn["body"] == {
        "lora_path": "tuned", "input_ids": [5, 6], "stream": True, "return_logprob": True, "top_logprobs_num": 2,
        "sampling_params": {
            "max_new_tokens": 9, "temperature": 0.5, "top_p": 0.8, "top_k": -1, "min_p": 0.0,
            "repetition_penalty": 1.1, "presence_penalty": 0.25, "frequency_penalty": -0.5, "stop_token_ids": [2, 0],
            "stop": ["!!"], "no_stop_trim": True, "skip_special_tokens": False, "sampling_seed": 3,
            "logit_bias": {"17": -100.0}, "json_schema": '{"type": "object"}',
        },
    }  # fmt: skip
    assert "lora_path" not in greedy["body"]
    assert greedy["body"]["sampling_params"]["temperature"] == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_sent_as_text(bench: Bench, kind: str) -> None:
    engine, _ = bench.open(kind)
    engine.generate((5, 6), PARAMS)
    (request,) = bench.seen("request")
    assert not {"text", "messages"} & request["body"].keys()
    assert [5, 6] in (request["body"].get("prompt"), request["body"].get("input_ids"))


@pytest.mark.parametrize(("kind", "incremental"), [("vllm", False), ("sglang", False), ("sglang", True)])
def test_log_probabilities_belong_to_their_tokens(bench: Bench, kind: str, incremental: bool) -> None:
    engine, _ = bench.open(kind)
    ids = bench.ids("I am small.")
    bench.script(answers=[ids], per_event=2, incremental=incremental)
    pieces = list(engine.stream((5,), SamplingParams(stop_ids=(STOP,), num_logprobs=1)))
    assert [piece.token_id for piece in pieces] == ids
    assert [piece.logprob for piece in pieces] == [-0.5] * len(ids)
    assert pieces[0].alternatives == ((ids[0], -0.5), (ids[0] + 1, -1.5))


@pytest.mark.parametrize("kind", KINDS)
def test_the_token_limit_ends_an_answer(bench: Bench, kind: str) -> None:
    engine, _ = bench.open(kind)
    ids = bench.ids("I am small and I can answer.")
    done = engine.generate((5,), SamplingParams(max_new_tokens=3, stop_ids=(STOP,)))
    bench.script(answers=[ids])
    assert done.finish_reason == "length"
    assert len(done.token_ids) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_text_is_cut_off_across_token_borders(bench: Bench, kind: str) -> None:
    engine, _ = bench.open(kind)
    bench.script(answers=[bench.ids("Yes, no, maybe. Hello!")], per_event=2)
    done = engine.generate((5,), SamplingParams(stop_ids=(STOP,), stop=("no, ma",)))
    assert done.text == "Yes, "
    assert done.finish_reason == "stop"


@pytest.mark.parametrize("kind", KINDS)
def test_cancelling_closes_the_connection_and_delivers_nothing_more(bench: Bench, kind: str) -> None:
    engine, _ = bench.open(kind)
    bench.script(answers=[bench.ids("I am small. " * 60)], pause_s=0.02)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ticket = engine.submit((5,), SamplingParams(max_new_tokens=500, stop_ids=(STOP,)), events.put)
    for _ in range(3):
        assert isinstance(events.get(timeout=10), StreamPiece)
    ticket.cancel()
    time.sleep(0.1)
    while not events.empty():
        events.get()
    wait_for(lambda: bench.seen("left"))
    assert bench.seen("left")[0] < 60
    assert events.empty()
    wait_for(lambda: engine.figures()["running"] == 0)


def test_cancelling_does_not_wait_for_the_next_token(bench: Bench) -> None:
    engine, _ = bench.open("vllm")
    bench.script(answers=[bench.ids("I am small.")], pause_s=4.0)
    ticket = engine.submit((5,), PARAMS, lambda event: None)
    wait_for(lambda: bench.seen("request"))
    ticket.cancel()
    wait_for(lambda: engine.figures()["running"] == 0, timeout_s=2.0)


@pytest.mark.parametrize("kind", KINDS)
def test_many_requests_at_once_each_get_their_own_answer(bench: Bench, kind: str) -> None:
    engine, _ = bench.open(kind)
    answers = [bench.ids("Yes" * (1 + number % 7)) for number in range(40)]
    bench.script(answers=answers, pause_s=0.001)
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for number in range(40):
        pieces: list[StreamPiece] = []

        def deliver(event: Any, pieces: list[StreamPiece] = pieces) -> None:
            pieces.append(event)
            if isinstance(event, Exception):
                results.put(event)
            elif event.finish_reason:
                results.put([piece.token_id for piece in pieces])

        engine.submit((number,), PARAMS, deliver)
    found = [results.get(timeout=20) for _ in range(40)]
    assert [result for result in found if isinstance(result, Exception)] == []
    assert sorted(found) == sorted(answers)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_tokens_asked_for(bench: Bench, kind: str) -> None:
    engine, _ = bench.open(kind)
    assert engine.score((9, 8, 7, 6), 2) == [-0.5, -0.75]
    with pytest.raises(ModelError, match="one token must stand before"):
        engine.score((9, 8), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_does_not_fit_is_refused_before_it_is_sent(bench: Bench, kind: str) -> None:
    engine, _ = bench.open(kind, f"{kind}_maxlen=8")
    with pytest.raises(ModelError, match="does not fit"):
        engine.generate(range(3, 11), PARAMS)
    assert bench.seen("request") == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_s_own_words_tell_why_it_refused(bench: Bench, kind: str) -> None:
    engine, _ = bench.open(kind)
    bench.script(answers=[], refuse="top_k is odd")
    with pytest.raises(ModelError) as caught:
        engine.generate((5,), PARAMS)
    assert "HTTP 400" in caught.value.what
    assert caught.value.why == "top_k is odd"


def test_vllm_is_started_with_the_settings_of_the_file(bench: Bench) -> None:
    _, notes = bench.open(
        "vllm", "vllm_maxlen=512", "vllm_gpu_util=0.5", "vllm_enforce_eager=true", "vllm_max_lora_rank=16",
        'vllm_config={"max_num_seqs": 8, "dtype": "float32", "enable_prefix_caching": false}',
    )  # fmt: skip
    (started,) = bench.seen("started")
    arguments = started["arguments"]
    pairs = dict(pairwise(arguments))
    expected = {
        "--served-model-name": "base", "--host": "127.0.0.1", "--max-model-len": "512",
        "--gpu-memory-utilization": "0.5", "--tensor-parallel-size": "1", "--generation-config": "vllm",
        "--max-lora-rank": "16", "--max-num-seqs": "8", "--dtype": "float32",
        "--structured-outputs-config": '{"backend": "guidance"}',
        "--lora-modules": f"tuned={bench.models / 'tuned'}",
    }  # fmt: skip
    assert expected.items() <= pairs.items()
    assert {"--enforce-eager", "--enable-lora", "--disable-uvicorn-access-log"} <= set(arguments)
    assert "--enable-prefix-caching" not in arguments
    assert arguments[0] == str(bench.models / "base")
    assert len(started["key"]) > 30
    assert not any(started["key"] in argument for argument in arguments)
    assert any("log is" in note for note in notes)


def test_sglang_is_started_with_the_settings_of_the_file(bench: Bench) -> None:
    _, notes = bench.open(
        "sglang", "sglang_maxlen=512", "sglang_mem_fraction=0.5", "sglang_tp_size=2", "sglang_lora_backend=flashinfer",
        "sglang_config.log_level=warning",
    )  # fmt: skip
    (started,) = bench.seen("started")
    arguments = started["arguments"]
    pairs = dict(pairwise(arguments))
    expected = {
        "--model-path": str(bench.models / "base"), "--served-model-name": "base", "--host": "127.0.0.1",
        "--context-length": "512", "--mem-fraction-static": "0.5", "--tp-size": "2", "--dtype": "auto",
        "--sampling-defaults": "openai", "--grammar-backend": "llguidance", "--lora-backend": "flashinfer",
        "--log-level": "warning", "--lora-paths": f"tuned={bench.models / 'tuned'}",
    }  # fmt: skip
    assert expected.items() <= pairs.items()
    assert len(started["key"]) > 30
    assert not any(started["key"] in argument for argument in arguments)
    assert any("seeds" in note for note in notes)
    _, notes = bench.open("sglang", 'sglang_config={"enable_deterministic_inference": true}')
    assert not any("seeds" in note for note in notes)


def test_further_adapters_are_served_by_name(bench: Bench) -> None:
    engine, _ = bench.open("vllm", f"serve_adapters={json.dumps({'other': str(bench.models / 'tuned')})}")
    assert engine.models == ("tuned", "base", "other")
    engine.generate((5,), PARAMS, model="other")
    assert bench.seen("request")[0]["body"]["model"] == "other"
    arguments = bench.seen("started")[0]["arguments"]
    assert arguments[-2:] == [f"tuned={bench.models / 'tuned'}", f"other={bench.models / 'tuned'}"]
    assert arguments[arguments.index("--max-loras") + 1] == "2"
    with pytest.raises(ModelError, match="no model 'third' is served"):
        engine.generate((5,), PARAMS, model="third")


def test_flags_are_written_as_a_command_line_has_them() -> None:
    settings = {"a_b": True, "c": False, "d": None, "e": {"x": 1}, "f": [1, "y"], "g": 0.5}
    assert as_flags(settings) == ["--a-b", "--e", '{"x": 1}', "--f", "1", "y", "--g", "0.5"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_that_fails_shows_the_last_lines_of_the_log(bench: Bench, kind: str) -> None:
    (bench.state / "fail").write_text("\n".join([*map(str, range(50)), "CUDA out of memory"]), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        bench.open(kind)
    assert "exit code 3" in caught.value.what
    assert caught.value.why.endswith("49\nCUDA out of memory")
    assert "\n5\n" not in caught.value.why
    assert Path(caught.value.where).is_file()


def test_closing_the_engine_ends_the_server(bench: Bench) -> None:
    engine, _ = bench.open("vllm")
    pid = bench.seen("started")[0]["pid"]
    os.kill(pid, 0)
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_dies_is_reported_with_its_log(bench: Bench) -> None:
    engine, _ = bench.open("vllm")
    engine.generate((5,), PARAMS)
    os.kill(bench.seen("started")[0]["pid"], signal.SIGKILL)
    assert engine.process is not None
    wait_for(lambda: engine.process.has_ended)
    with pytest.raises(ModelError, match="vLLM has ended") as caught:
        engine.generate((5,), PARAMS)
    assert "completions" in caught.value.why


def test_killing_the_program_ends_the_server(tmp_path: Path) -> None:
    """SIGKILL leaves the program no chance to end its server itself."""
    server = "import os, time; open(r'%s', 'w').write(str(os.getpid())); time.sleep(600)"
    pid_file = tmp_path / "pid"
    program = (
        "import sys, time; from tunesmith.infer.server_process import ServerProcess; "
        "ServerProcess('fake', sys.argv[1:], {}); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, sys.executable, "-c", server % pid_file]
    parent = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)})
    wait_for(lambda: pid_file.is_file() and pid_file.read_text())
    pid = int(pid_file.read_text())
    parent.kill()
    parent.wait()

    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"

    wait_for(is_gone)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_runs_already_is_used_as_it_is(bench: Bench, kind: str) -> None:
    first, _ = bench.open(kind)
    key = bench.seen("started")[0]["key"]
    port = first.process and bench.seen("started")[0]["arguments"]
    port = port[port.index("--port") + 1]
    joined, notes = bench.open(kind, f"infer_url=http://127.0.0.1:{port}/v1", f"infer_api_key={key}")
    assert joined.generate((5,), PARAMS).text == "I am small."
    assert joined.process is None
    assert joined.context_length == 300
    assert any("not compared" in note for note in notes)
    assert len(bench.seen("started")) == 1
    with pytest.raises(ModelError, match="HTTP 401"):
        bench.open(kind, f"infer_url=http://127.0.0.1:{port}", "infer_api_key=wrong")
    joined.close()
    assert first.generate((5,), PARAMS).text == "I am small."


def test_a_server_that_serves_something_else_is_refused(bench: Bench) -> None:
    first, _ = bench.open("vllm", adapters=0)
    arguments = bench.seen("started")[0]["arguments"]
    assert "--lora-modules" not in arguments
    url = f"infer_url=http://127.0.0.1:{arguments[arguments.index('--port') + 1]}"
    with pytest.raises(ModelError, match="does not serve 'tuned'"):
        bench.open("vllm", url, f"infer_api_key={bench.seen('started')[0]['key']}")
    first.close()
    with pytest.raises(ModelError, match="no vLLM server answers"):
        bench.open("vllm", url)


@pytest.mark.parametrize(
    ("argument", "adapters", "said"),
    [("quantization_bit=4", 1, "quantization_bit is set"), ("vllm_maxlen=64", 2, "2 adapters act together")],
)
def test_what_the_server_would_not_heed_is_refused(bench: Bench, argument: str, adapters: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        bench.open("vllm", argument, adapters=adapters)


def test_a_missing_program_is_told_with_the_way_to_get_it(models: Path) -> None:
    config = resolve([f"model_name_or_path={models / 'base'}", "infer_backend=vllm"], verb="chat").config
    located = Located(str(models / "base"), (), None, ())
    with pytest.raises(ModelError, match="vLLM is not installed") as caught:
        vllm.open_vllm(config, located, Renderer(None))
    assert 'pip install "tunesmith[vllm]"' in caught.value.fix
