"""The batching engine: every answer is a function of its own request, whatever else the engine does."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tests.tiny import tiny_adapter, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tunesmith.errors import ConfigError, ModelError
from tunesmith.infer import batching
from tunesmith.infer.batching import BatchEngine
from tunesmith.infer.draft import Guesses
from tunesmith.infer.engine import Completion, EngineBusyError, Event, Grammar, SamplingParams, StreamPiece
from tunesmith.infer.hf import HFEngine
from tunesmith.infer.lanes import Lanes
from tunesmith.infer.request import BatchLimits
from tunesmith.model.ragged import SequenceCache, ragged_problem, run_pieces, use_ragged_attention

GREEDY = SamplingParams(do_sample=False, max_new_tokens=16)
SAMPLED = SamplingParams(temperature=1.3, top_k=0, top_p=0.95, max_new_tokens=16, seed=7)
SMALL = BatchLimits(answer_rows=4, piece_tokens=8, reading_rows=16, max_running=8, max_waiting=64)
PROMPTS = [
    tuple((7 * i + 3 * j) % 400 + 5 for j in range(length)) for i, length in enumerate((5, 8, 17, 30, 16, 9, 41))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


def make_engine(folder, limits: BatchLimits = SMALL, dtype: torch.dtype = torch.bfloat16) -> BatchEngine:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    use_ragged_attention(model)
    return BatchEngine(Lanes(model, {"tiny": None}), AutoTokenizer.from_pretrained(folder), limits)


@pytest.fixture
def engine(folder) -> Iterator[BatchEngine]:
    engine = make_engine(folder)
    yield engine
    engine.close()


def ask_all(engine: BatchEngine, prompts, params, models=None) -> list[Completion]:
    """All at the same time."""
    found: list[Completion | None] = [None] * len(prompts)

    def ask(index: int) -> None:
        own = replace(params, seed=None if params.seed is None else params.seed + index)
        found[index] = engine.generate(prompts[index], own, models[index] if models else None)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert None not in found
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_in_bf16_an_answer_has_the_same_tokens_and_scores_to_the_bit_alone_and_in_company(folder, params) -> None:
    params = replace(params, num_logprobs=3)
    with_scores: list[list[list[StreamPiece]]] = []
    for together in (False, True):
        engine = make_engine(folder, replace(SMALL, prefix_bytes=0))
        events: list[list[StreamPiece]] = [[] for _ in PROMPTS]
        done = [threading.Event() for _ in PROMPTS]

        def deliver(event: Event, index: int, events=events, done=done) -> None:
            assert isinstance(event, StreamPiece)
            events[index].append(event)
            if event.finish_reason:
                done[index].set()

        for index, prompt in enumerate(PROMPTS):
            engine.submit(prompt, replace(params, seed=index), lambda event, index=index: deliver(event, index))
            if not together:
                assert done[index].wait(30)
        assert all(flag.wait(30) for flag in done)
        with_scores.append(events)
        engine.close()
    assert with_scores[0] == with_scores[1]


@pytest.mark.parametrize(
    ("params", "repeats"),
    [
        (GREEDY, True),
        (SAMPLED, False),
        (replace(GREEDY, repetition_penalty=1.1), True),
        (replace(SAMPLED, top_k=2, stop_ids=(2, 3, 4)), True),
    ],
    ids=["greedy", "sampled", "penalised", "few choices"],
)
def test_guesses_of_spare_rows_change_no_bit_of_any_answer(folder, params, repeats: bool) -> None:
    params = replace(params, max_new_tokens=60, num_logprobs=2)
    repeating = [(*prompt, *prompt, *prompt) for prompt in PROMPTS]
    answers, figures = [], []
    for max_guesses in (0, 3):
        engine = make_engine(folder, replace(SMALL, max_guesses=max_guesses))
        answers.append([list(engine.stream(prompt, params)) for prompt in repeating])
        figures.append(engine.figures())
        engine.close()
    assert answers[0] == answers[1]
    assert figures[0]["guessed_tokens_total"] == 0
    assert figures[0]["answer_tokens_total"] == figures[1]["answer_tokens_total"]
    assert figures[1]["guessed_tokens_total"] > 0
    assert repeats <= figures[1]["guessed_right_tokens_total"] < figures[1]["guessed_tokens_total"]


def test_guesses_fill_the_rows_that_answers_leave_free_and_no_others(folder, monkeypatch) -> None:
    widths = []

    def watched(model, layout, wanted, num_rows):
        if num_rows == layout.width:  # a pass that answers
            widths.append([piece.start for piece in layout.pieces])
        return run_pieces(model, layout, wanted, num_rows)

    monkeypatch.setattr(batching, "run_pieces", watched)
    engine = make_engine(folder, replace(SMALL, reading_rows=32))
    engine.generate(PROMPTS[0] * 3, replace(GREEDY, max_new_tokens=40))
    alone = list(widths)
    widths.clear()
    ask_all(engine, [PROMPTS[0] * 3] * 3, replace(GREEDY, max_new_tokens=40))
    engine.close()
    assert max(map(len, alone)) == 4  # one token and three guesses, one after the other
    assert all(starts == list(range(starts[0], starts[0] + len(starts))) for starts in alone)
    assert max(starts[-1] for starts in alone) < 15 + 40  # never past what the answer may have
    assert max(map(len, widths)) <= 4


def test_what_followed_the_last_two_tokens_before_is_the_guess() -> None:
    guesses = Guesses([1, 2, 3, 4, 1, 2])
    assert guesses.next(4) == [3, 4, 1, 2]
    assert guesses.next(1) == [3]
    assert guesses.next(-1) == []
    guesses.extend([9])
    assert guesses.next(4) == []  # (2, 9) is new
    guesses.extend([1, 2])
    assert guesses.next(2) == [9, 1]  # what followed last
    assert Guesses([7]).next(3) == []


def test_in_fp32_greedy_answers_equal_those_of_the_plain_engine(folder) -> None:
    engine = make_engine(folder, dtype=torch.float32)
    plain = HFEngine(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    assert ask_all(engine, PROMPTS, GREEDY) == [plain.generate(prompt, GREEDY) for prompt in PROMPTS]
    engine.close()


def test_a_known_beginning_is_not_read_again_and_changes_no_bit(folder) -> None:
    asked = replace(GREEDY, num_logprobs=2)
    long = tuple(i % 300 + 5 for i in range(40))
    prompts = [long, (*long[:32], 9, 9, 9), long[:20], (*long, 7)]
    answers, cached = [], []
    for prefix_bytes in (0, 1 << 20):
        engine = make_engine(folder, replace(SMALL, prefix_bytes=prefix_bytes))
        answers.append([list(engine.stream(prompt, asked)) for prompt in prompts])
        cached.append(engine.figures()["cached_tokens_total"])
        engine.close()
    assert answers[0] == answers[1]
    assert cached == [0, 32 + 16 + 40]  # whole pieces of 8; the last token of a prompt is always read


def test_the_prefix_cache_stays_within_its_memory(folder) -> None:
    engine = make_engine(folder, replace(SMALL, prefix_bytes=40_000))
    for start in range(5, 300, 10):
        engine.generate(tuple(range(start, start + 32)), replace(GREEDY, max_new_tokens=1))
    assert 0 < engine.figures()["prefix_cache_bytes"] <= 40_000
    engine.close()


def test_a_client_that_leaves_gets_at_most_one_more_token(engine: BatchEngine) -> None:
    stream = engine.stream(PROMPTS[0], replace(GREEDY, max_new_tokens=400))
    for _ in range(3):
        next(stream)
    before = engine.figures()["answer_tokens_total"]
    stream.close()
    deadline = time.monotonic() + 10
    while engine.figures()["running"] and time.monotonic() < deadline:
        time.sleep(0.01)
    figures = engine.figures()
    assert (figures["running"], figures["cancelled_total"]) == (0, 1)
    settled = figures["answer_tokens_total"]
    time.sleep(0.2)
    assert engine.figures()["answer_tokens_total"] == settled
    assert settled - before <= 3  # those computed while this thread was being woken


@pytest.mark.parametrize("end", ["last token", "client leaves", "error", "engine closes"])
def test_the_memory_of_an_answer_is_free_when_it_ends_whoever_holds_its_ticket(folder, end: str, monkeypatch) -> None:
    engine = make_engine(folder, replace(SMALL, prefix_bytes=0))
    buffers = []

    def watched(self, num_layers: int, make=SequenceCache.__init__) -> None:
        make(self, num_layers)
        buffers.append(weakref.ref(self))

    monkeypatch.setattr(SequenceCache, "__init__", watched)
    begun, over = threading.Event(), threading.Event()
    tickets = []

    def failing(logits_V: torch.Tensor) -> int:
        raise ModelError("its form failed")

    def deliver(event: Event) -> None:  # it holds the ticket that holds it
        begun.set()
        if end == "error" and isinstance(event, StreamPiece) and not over.is_set():
            monkeypatch.setattr(tickets[0].answer, "_choose", failing)
        if isinstance(event, Exception) or event.finish_reason:
            over.set()

    gc.disable()
    try:
        length = 3 if end == "last token" else 400
        tickets.append(engine.submit(PROMPTS[3], replace(GREEDY, max_new_tokens=length), deliver))
        assert begun.wait(30)
        if end == "client leaves":
            tickets[0].cancel()
        if end == "engine closes":
            engine.close()
        deadline = time.monotonic() + 10
        while buffers[0]() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert buffers[0]() is None
        engine.close()
        assert "guesses" not in vars(tickets[0])
    finally:
        gc.enable()
        engine.close()


def test_a_full_queue_refuses_and_says_when_to_come_back(folder) -> None:
    engine = make_engine(folder, replace(SMALL, max_running=1, max_waiting=2))
    tickets = []

    def ask_again_and_again() -> None:
        for _ in range(8):
            tickets.append(engine.submit(PROMPTS[0], replace(GREEDY, max_new_tokens=400), lambda event: None))

    with pytest.raises(EngineBusyError) as refused:
        ask_again_and_again()
    assert refused.value.retry_after >= 1
    assert 2 <= len(tickets) <= 4
    for ticket in tickets:
        ticket.cancel()
    assert engine.generate(PROMPTS[1], GREEDY).token_ids
    engine.close()


def test_requests_that_do_not_fit_in_memory_together_wait_for_each_other(folder) -> None:
    engine = make_engine(folder, replace(SMALL, max_cache_tokens=60))
    answers = ask_all(engine, PROMPTS, GREEDY)
    alone = make_engine(folder)
    assert [a.token_ids for a in answers] == [alone.generate(prompt, GREEDY).token_ids for prompt in PROMPTS]
    engine.close()
    alone.close()


def test_stop_texts_end_an_answer_wherever_token_borders_fall(engine: BatchEngine) -> None:
    free = engine.generate(PROMPTS[3], replace(GREEDY, max_new_tokens=40))
    for start in range(1, len(free.text) - 3):
        stop = free.text[start : start + 3]
        answer = engine.generate(PROMPTS[3], replace(GREEDY, max_new_tokens=40, stop=("never there", stop)))
        assert answer.text == free.text[: free.text.index(stop)]
        assert answer.finish_reason == "stop"
        assert len(answer.token_ids) <= len(free.token_ids)


def test_log_probabilities_are_those_of_scoring_the_answer(folder) -> None:
    engine = make_engine(folder, dtype=torch.float32)
    pieces = list(engine.stream(PROMPTS[4], replace(SAMPLED, num_logprobs=2, logit_bias=((9, 3.0),))))
    ids = (*PROMPTS[4], *(piece.token_id for piece in pieces))
    assert [piece.logprob for piece in pieces] == pytest.approx(engine.score(ids, len(PROMPTS[4])), abs=1e-4)
    plain = HFEngine(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    assert engine.score(ids, 1) == pytest.approx(plain.score(ids, 1), abs=1e-4)
    read = engine.read(ids, 3)
    assert [logprob for logprob, _ in read[len(PROMPTS[4]) - 1 :]] == engine.score(ids, len(PROMPTS[4]))
    for piece, (_, best) in zip(pieces, read[len(PROMPTS[4]) - 1 :], strict=True):
        assert dict(best[:2]) == pytest.approx(dict(piece.alternatives), abs=1e-4)
        assert len(best) == 3
    assert len(read) == len(ids) - 1
    for piece in pieces:
        assert len(piece.alternatives) == 2
        assert piece.alternatives[0][1] >= piece.alternatives[1][1]
    with pytest.raises(ModelError, match="nothing before"):
        engine.score(ids, 0)
    engine.close()


def test_penalties_and_biases_act_on_the_answer_as_openai_defines_them(engine: BatchEngine) -> None:
    def tokens(**changed) -> tuple[int, ...]:
        return engine.generate(PROMPTS[0], replace(GREEDY, **changed)).token_ids

    assert tokens(logit_bias=((9, 100.0),)) == (9,) * 16
    # a bias of 100 is outweighed at the 11th time by a penalty of 10 for each time, and by one of 100 at once
    assert tokens(logit_bias=((9, 100.0),), frequency_penalty=10.0)[:9] == (9,) * 9
    assert 9 in tokens(logit_bias=((9, 100.0),), presence_penalty=200.0)
    assert tokens(logit_bias=((9, 100.0),), presence_penalty=200.0).count(9) == 1
    in_the_prompt = PROMPTS[0][0]
    assert tokens(logit_bias=((in_the_prompt, 100.0),), presence_penalty=50.0)[0] == in_the_prompt


def test_an_answer_has_the_form_that_was_asked_for(engine: BatchEngine) -> None:
    import json

    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}
    form = Grammar("json_schema", json.dumps({**schema, "additionalProperties": False}))
    params = replace(SAMPLED, grammar=form, max_new_tokens=200, stop_ids=(2,))
    for answer in ask_all(engine, PROMPTS[:3], params):
        assert answer.finish_reason == "stop"
        assert set(json.loads(answer.text)) == {"n"}
    regex = replace(SAMPLED, grammar=Grammar("regex", "(ja|nein)"), stop_ids=(2,))
    assert {answer.text for answer in ask_all(engine, PROMPTS, regex)} <= {"ja", "nein"}
    with pytest.raises(ConfigError, match="json"):
        engine.submit(PROMPTS[0], replace(params, grammar=Grammar("json_schema", "{")), print)


def test_adapters_and_the_base_answer_side_by_side_each_as_alone(folder, tmp_path) -> None:
    from peft import PeftModel

    from tunesmith.model.second_adapter import add_adapter

    first, second = tiny_adapter(tmp_path / "a", folder, seed=1), tiny_adapter(tmp_path / "b", folder, seed=2)
    base = AutoModelForCausalLM.from_pretrained(folder).eval()
    model = PeftModel.from_pretrained(base, str(first)).eval()
    add_adapter(model, second, "b")
    use_ragged_attention(base)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    engine = BatchEngine(Lanes(model, {"a": "default", "tiny": None, "b": "b"}), tokenizer, SMALL)
    names = [("a", "tiny", "b")[i % 3] for i in range(9)]
    answers = ask_all(engine, [PROMPTS[3]] * 9, GREEDY, names)
    engine.close()
    alone = {"tiny": HFEngine(AutoModelForCausalLM.from_pretrained(folder), tokenizer)}
    for name, adapter in (("a", first), ("b", second)):
        alone[name] = HFEngine(
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(adapter)), tokenizer
        )
    expected = {name: plain.generate(PROMPTS[3], GREEDY).token_ids for name, plain in alone.items()}
    assert len(set(expected.values())) == 3
    assert [answer.token_ids for answer in answers] == [expected[name] for name in names]
    with pytest.raises(ModelError, match="no model 'c'"):
        engine.submit(PROMPTS[0], GREEDY, print, "c")


def test_a_pass_that_fails_ends_its_requests_with_the_error_and_the_engine_goes_on(engine: BatchEngine) -> None:
    model, forward = engine.lanes.model, engine.lanes.model.forward

    def broken(*args, **kwargs):
        raise RuntimeError("out of memory, say")

    model.forward = broken
    with pytest.raises(RuntimeError, match="out of memory, say"):
        engine.generate(PROMPTS[0], GREEDY)
    model.forward = forward
    assert engine.generate(PROMPTS[0], GREEDY).token_ids
    assert engine.figures()["failed_total"] == 1


def test_an_answer_that_fails_on_its_own_leaves_the_others_of_its_pass_alone(engine: BatchEngine, monkeypatch) -> None:
    from tunesmith.infer import answer

    expected = engine.generate(PROMPTS[1], GREEDY)
    choose = answer.Answer._choose

    def failing(self, logits_V):
        if self.params.seed == 13:
            raise ModelError("its form failed")
        return choose(self, logits_V)

    monkeypatch.setattr(answer.Answer, "_choose", failing)
    others = [engine.stream(PROMPTS[1], GREEDY) for _ in range(2)]
    with pytest.raises(ModelError, match="its form failed"):
        engine.generate(PROMPTS[0], replace(GREEDY, seed=13))
    assert ["".join(piece.text for piece in other) for other in others] == [expected.text] * 2
    assert engine.figures()["failed_total"] == 1


def test_closing_the_engine_ends_what_is_running_with_an_error(folder) -> None:
    engine = make_engine(folder)
    stream = engine.stream(PROMPTS[0], replace(GREEDY, max_new_tokens=400))
    next(stream)
    engine.close()
    with pytest.raises(ModelError, match="closed"):
        list(stream)
    with pytest.raises(ModelError, match="closed"):
        engine.submit(PROMPTS[0], GREEDY, print)


WINDOWED = ("qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3")


@pytest.mark.parametrize("model_type", [*WINDOWED, "llama", "glm4", "granite", "olmo2", "gpt2", "mixtral"])
def test_families_are_answered_in_ragged_rows_as_by_their_own_attention(model_type: str, folder) -> None:
    """Windows of 8 tokens, capped scores and so on where the family has them; prompts are longer than the windows."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 512, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    window = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}
    given = sizes | heads | (window if model_type in WINDOWED else {})
    config = AutoConfig.for_model(model_type, **given, pad_token_id=0, eos_token_id=None, bos_token_id=None)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.set_attn_implementation("eager")
    plain = [HFEngine(model, tokenizer).generate(prompt, GREEDY).token_ids for prompt in PROMPTS]
    assert ragged_problem(model) == ""
    engine = BatchEngine(Lanes(model, {"m": None}), tokenizer, SMALL)
    assert [answer.token_ids for answer in ask_all(engine, PROMPTS, GREEDY)] == plain
    engine.close()


@pytest.mark.parametrize(("model_type", "word"), [("mamba", "linear_attention"), ("gpt_oss", "does not take")])
def test_models_that_cannot_be_batched_are_found_out_and_keep_their_own_attention(model_type: str, word: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, **(sizes | heads), eos_token_id=None, bos_token_id=None)
    model = AutoModelForCausalLM.from_config(config).eval()
    own = model.config._attn_implementation
    assert word in ragged_problem(model)
    assert model.config._attn_implementation == own


def test_a_wrong_attention_is_found_out_before_anything_is_served(folder, monkeypatch) -> None:
    from tunesmith.model import ragged

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    monkeypatch.setattr(
        ragged, "_attend", lambda query, keys, values, *_: values[:, :, -query.shape[2] :].repeat(1, 2, 1, 1)
    )
    assert "differ" in ragged_problem(model)


def test_vectors_are_the_mean_hidden_state_at_length_one_whatever_the_pieces(folder) -> None:
    engine = make_engine(folder, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden_TD = plain.model(torch.tensor([PROMPTS[6]])).last_hidden_state[0].mean(0)
    assert engine.embed(PROMPTS[6]) == pytest.approx((hidden_TD / hidden_TD.norm()).tolist(), abs=1e-5)
    with pytest.raises(ModelError, match="nothing before"):
        engine.embed(())
    engine.close()


def test_a_reward_model_gives_the_value_at_the_last_token_and_no_text(folder) -> None:
    from tunesmith.infer.reward import RewardEngine
    from tunesmith.model.value_head import ValueHead

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden_D = model.model(torch.tensor([PROMPTS[3]])).last_hidden_state[0, -1]
    head = ValueHead(hidden_D.shape[0]).eval()
    expected = float(head(hidden_D))
    use_ragged_attention(model)
    engine = RewardEngine(Lanes(model, {"rm": None}), AutoTokenizer.from_pretrained(folder), head, SMALL)
    assert engine.reward(PROMPTS[3]) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ModelError, match="scores, not text"):
        engine.generate(PROMPTS[3], GREEDY)
    engine.close()


LEAVING = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from tunesmith.infer.batching import BatchEngine
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.lanes import Lanes
from tunesmith.model.ragged import use_ragged_attention

model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
use_ragged_attention(model)
engine = BatchEngine(Lanes(model, {"tiny": None}), AutoTokenizer.from_pretrained(sys.argv[1]))
for number in range(40):
    engine.submit([5, 6, number], SamplingParams(max_new_tokens=400), lambda event: None)
next(engine.stream([5, 6, 7], SamplingParams(max_new_tokens=400)))
"""


def test_a_process_that_ends_in_the_middle_of_answers_ends_in_peace(folder) -> None:
    """Unless it is closed before, the engine's thread is cut off inside torch, and the process aborts (SIGABRT)."""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", LEAVING, str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, "terminate" in done.stderr) == (0, False), done.stderr[-500:]
