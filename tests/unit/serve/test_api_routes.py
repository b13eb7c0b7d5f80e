"""The routes beside chat, and the conformance suite against a server that breaks the rules."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_engine import ScriptedEngine
from tests.unit.serve.served import TOKENIZER, Served, error_of, events_of, served

from tunesmith.cli.api_arguments import split_arguments
from tunesmith.errors import ConfigError
from tunesmith.serve.conformance.report import table, write_report
from tunesmith.serve.conformance.suite import Result, all_checks, run_suite
from tunesmith.serve.conformance.target import Failed, Skipped, Target
from tunesmith.serve.openai.token_bytes import TokenBytes

TEXT = "blue 蓝 🎉"


class Vectors(ScriptedEngine):
    """An engine that embeds and scores by the number of tokens."""

    def embed(self, ids: Sequence[int], model: str | None = None) -> list[float]:
        return [float(len(ids)), 0.5, -1.0]

    def reward(self, ids: Sequence[int], model: str | None = None) -> float:
        return len(ids) / 4


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(engine=Vectors(TOKENIZER, [TEXT])) as running:
        yield running


@pytest.mark.parametrize("prompt", ["Hello", ["Hello", "World"], [5, 6], [[5, 6], [7]]])
def test_completions_take_texts_and_token_ids_in_both_forms(server: Served, prompt: Any) -> None:
    num = 2 * (1 if isinstance(prompt, str) or isinstance(prompt[0], int) else len(prompt))
    whole = server.complete(prompt=prompt, n=2).json()
    assert [choice["index"] for choice in whole["choices"]] == list(range(num))
    assert {choice["text"] for choice in whole["choices"]} == {TEXT}
    events = events_of(server.complete(prompt=prompt, n=2, stream=True))
    joined = [""] * num
    for event in events:
        for choice in event["choices"]:
            joined[choice["index"]] += choice["text"]
    assert joined == [TEXT] * num
    if not isinstance(prompt, str) and not isinstance(prompt[0], str):
        wanted = [prompt] if isinstance(prompt[0], int) else prompt
        assert [list(ids) for ids, _, _ in server.engine.asked[-num::2]] == wanted


def test_a_spelled_out_special_token_is_that_token_in_a_plain_prompt(server: Served) -> None:
    server.complete(prompt="<|im_start|>user\nHi<|im_end|>")
    ids = server.engine.asked[-1][0]
    assert (ids[0], ids[-1]) == (1, 2)


def test_echo_repeats_the_prompt_in_front(server: Served) -> None:
    assert server.complete(echo=True).json()["choices"][0]["text"] == "Hello" + TEXT
    events = events_of(server.complete(echo=True, stream=True))
    assert "".join(event["choices"][0]["text"] for event in events) == "Hello" + TEXT


def test_logprobs_of_completions_are_lists_that_make_the_text(server: Served) -> None:
    lists = server.complete(logprobs=1).json()["choices"][0]["logprobs"]
    assert "".join(lists["tokens"]) == TEXT
    assert [
        TEXT[offset:].startswith(token) for offset, token in zip(lists["text_offset"], lists["tokens"], strict=True)
    ]
    assert len(lists["token_logprobs"]) == len(lists["tokens"]) == len(lists["top_logprobs"])


def test_an_echoed_prompt_tells_its_log_probabilities_but_for_the_first_token(server: Served, monkeypatch) -> None:
    asked = []

    def read(ids, num_best, model):
        asked.append((tuple(ids), num_best, model))
        return [(-0.25 * place, ((token_id, -0.25 * place), (7, -9.0))) for place, token_id in enumerate(ids[1:], 1)]

    monkeypatch.setattr(server.engine, "read", read, raising=False)
    prompt = "Hello there, you."
    choice = server.complete(prompt=prompt, echo=True, logprobs=2).json()["choices"][0]
    lists = choice["logprobs"]
    ids = server.engine.asked[-1][0]
    assert asked == [(ids, 2, "tuned")]
    assert "".join(lists["tokens"]) == choice["text"] == prompt + TEXT
    assert lists["text_offset"][len(ids)] == len(prompt)
    assert (lists["token_logprobs"][0], lists["top_logprobs"][0]) == (None, None)
    assert lists["token_logprobs"][1 : len(ids)] == [-0.25 * place for place in range(1, len(ids))]
    assert all(len(best) == 2 for best in lists["top_logprobs"][1 : len(ids)])
    assert len(lists["token_logprobs"]) == len(lists["tokens"]) == len(lists["top_logprobs"])
    joined: dict[str, list[Any]] = {name: [] for name in lists}
    for event in events_of(server.complete(prompt=prompt, echo=True, logprobs=2, stream=True)):
        for name, values in (event["choices"][0]["logprobs"] or {}).items():
            joined[name] += values
    assert joined == lists
    both = server.complete(prompt=[prompt, "Hi"], n=2, echo=True, logprobs=0).json()["choices"]
    assert [choice["logprobs"]["tokens"][: len(ids)] == lists["tokens"][: len(ids)] for choice in both] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True, "logprobs": 0}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["a"] * 200, "n": 2}, "n"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_a_completion_cannot_honour_is_refused(server: Served, fields: dict[str, Any], param: str) -> None:
    assert error_of(server.complete(**fields), 400)["param"] == param


def test_embeddings_come_as_numbers_and_as_base64(server: Served) -> None:
    body = {"model": "tuned", "input": ["Hello", "Hello there"]}
    numbers = server.client.post("/v1/embeddings", json=body).json()
    sizes = [float(len(TOKENIZER(text)["input_ids"])) for text in body["input"]]
    assert [item["embedding"] for item in numbers["data"]] == [[size, 0.5, -1.0] for size in sizes]
    assert numbers["usage"] == {"prompt_tokens": sum(sizes), "total_tokens": sum(sizes)}
    packed = server.client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack("<3f", raw)) == [sizes[0], 0.5, -1.0]
    error_of(server.client.post("/v1/embeddings", json={**body, "dimensions": 3}), 400)


def test_scores_have_the_shape_of_the_public_tool_and_nothing_is_cut(server: Served) -> None:
    body = {"model": "tuned", "messages": ["abc", "abcdef"]}
    told = server.client.post("/v1/score/evaluation", json=body).json()
    sizes = [len(TOKENIZER(text, add_special_tokens=False)["input_ids"]) for text in ("abc", "abcdef")]
    assert (told["object"], told["model"]) == ("score.evaluation", "tuned")
    assert told["id"].startswith("scoreval-")
    assert told["scores"] == [size / 4 for size in sizes]
    assert error_of(server.client.post("/v1/score/evaluation", json={**body, "max_length": 1}), 400)["param"]


def test_an_engine_without_vectors_says_so() -> None:
    with served(["x"]) as running:
        response = running.client.post("/v1/embeddings", json={"model": "tuned", "input": "a"})
        assert error_of(response, 400)["code"] == "unsupported_operation"
        response = running.client.post("/v1/score/evaluation", json={"model": "tuned", "messages": ["a"]})
        assert error_of(response, 405)["code"] == "unsupported_operation"


def test_metrics_count_requests_and_tokens() -> None:
    with served(["one two"]) as running:
        usage = running.chat().json()["usage"]
        running.client.get("/random/path/of/a/scanner")
        page = running.client.get("/metrics").text
        assert 'tunesmith_requests_total{route="/v1/chat/completions",status="200"} 1' in page
        assert 'tunesmith_requests_total{route="other",status="404"} 1' in page
        assert f"tunesmith_prompt_tokens_total {usage['prompt_tokens']}" in page
        assert f"tunesmith_completion_tokens_total {usage['completion_tokens']}" in page
        assert "tunesmith_engine_running 0" in page
        assert "scanner" not in page


def test_the_document_names_every_route_and_no_422(server: Served) -> None:
    document = server.client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/models", "/v1/models/{name}", "/v1/chat/completions", "/v1/completions", "/v1/embeddings",
        "/v1/score/evaluation", "/health", "/metrics",
    }  # fmt: skip
    assert "422" not in json.dumps([list(o["responses"]) for p in document["paths"].values() for o in p.values()])
    chat = document["components"]["schemas"]["ChatBody"]
    assert chat["additionalProperties"] is False
    assert chat["properties"]["audio"]["type"] == "null"


def test_bytes_of_tokens_join_to_the_text() -> None:
    told = TokenBytes(TOKENIZER)
    ids = TOKENIZER(TEXT + "<|im_end|>")["input_ids"]
    assert b"".join(map(told.of, ids)).decode() == TEXT + "<|im_end|>"
    assert told.is_special(ids[-1])


def test_the_suite_fails_a_server_that_breaks_a_rule(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    import tunesmith.serve.openai.chat as chat

    target = Target(server.url + "/v1", "", "tuned")
    checks = [
        check for check in all_checks() if check.name in ("a chat answer with usage", "max_tokens ends with length")
    ]
    assert {result.verdict for result in run_suite(target, checks)} == {"PASS"}
    monkeypatch.setattr(chat, "usage", lambda record: {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 5})
    assert {result.verdict for result in run_suite(target, checks)} == {"FAIL"}


def test_the_suite_knows_a_broken_stream(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    import tunesmith.serve.openai.events as events

    target = Target(server.url + "/v1", "", "tuned")
    target.chat("stream", "Hi")
    monkeypatch.setattr(events, "DONE", b"")
    with pytest.raises(Failed, match="DONE"):
        target.chat("stream", "Hi")


def test_what_a_server_does_not_support_is_skipped_not_failed(server: Served) -> None:
    target = Target(server.url + "/v1", "", "tuned")
    with pytest.raises(Skipped, match="verbosity"):
        target.chat("plain", "Hi", verbosity="low")


def test_reports_hold_every_result(tmp_path: Path) -> None:
    results = [
        Result("a", "plain", "PASS", "", 0.1),
        Result("a", "stream", "FAIL", "why", 0.2),
        Result("b", "plain", "SKIP", "no", 0),
    ]
    assert "1 passed, 1 failed, 1 skipped" in table(results)
    write_report(results, tmp_path / "r.json")
    assert [entry["verdict"] for entry in json.loads((tmp_path / "r.json").read_text())] == ["PASS", "FAIL", "SKIP"]
    write_report(results, tmp_path / "r.xml")
    text = (tmp_path / "r.xml").read_text()
    assert 'tests="3"' in text
    assert 'failures="1"' in text
    assert "why" in text


def test_flags_of_the_verb_are_parted_from_settings() -> None:
    own, rest = split_arguments(["a.yaml", "--selfcheck", "--report", "r.xml", "--template", "qwen"])
    assert (own.selfcheck, own.report, rest) == (True, "r.xml", ["a.yaml", "--template", "qwen"])
    for wrong in (["--report"], ["--report", "r.txt"], ["--selfcheck-url", "--report"]):
        with pytest.raises(ConfigError):
            split_arguments(wrong)
