"""The engine on transformers models: stops, limits, seeds, equality with `generate`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.tiny import tiny_model

from tunesmith.errors import ModelError
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.hf import HFEngine

PROMPT = tuple(range(10, 30))
GREEDY = SamplingParams(do_sample=False, max_new_tokens=24)


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> HFEngine:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path_factory.mktemp("model"))
    return HFEngine(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


def test_greedy_answers_equal_those_of_transformers_generate(engine: HFEngine) -> None:
    theirs = engine.model.generate(torch.tensor([PROMPT]), max_new_tokens=24, do_sample=False, eos_token_id=None)
    ours = engine.generate(PROMPT, GREEDY)
    assert ours.token_ids == tuple(theirs[0, len(PROMPT) :].tolist())
    assert (ours.finish_reason, ours.num_prompt_tokens) == ("length", len(PROMPT))


def test_generation_ends_exactly_at_a_stop_token_and_does_not_show_it(engine: HFEngine) -> None:
    free = engine.generate(PROMPT, GREEDY)
    stop_id = free.token_ids[10]
    first = free.token_ids.index(stop_id)
    stopped = engine.generate(PROMPT, SamplingParams(do_sample=False, max_new_tokens=24, stop_ids=(7, stop_id)))
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.text == engine.tokenizer.decode(list(free.token_ids[:first]), skip_special_tokens=True)


def test_a_stop_token_on_the_last_allowed_place_still_counts_as_a_stop(engine: HFEngine) -> None:
    free = engine.generate(PROMPT, GREEDY)
    first = free.token_ids.index(free.token_ids[10])
    params = SamplingParams(do_sample=False, max_new_tokens=first + 1, stop_ids=(free.token_ids[10],))
    assert engine.generate(PROMPT, params).finish_reason == "stop"


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(engine: HFEngine) -> None:
    def sampled(seed: int) -> tuple[int, ...]:
        params = SamplingParams(temperature=1.5, top_k=0, top_p=1.0, max_new_tokens=16, seed=seed)
        return engine.generate(PROMPT, params).token_ids

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_a_prompt_that_fills_the_context_is_refused_and_not_cut(engine: HFEngine) -> None:
    with pytest.raises(ModelError, match=r"512 tokens.*context, 512"):
        engine.stream([5] * 512, GREEDY)
    with pytest.raises(ModelError, match="empty"):
        engine.stream([], GREEDY)


def test_an_answer_ends_with_the_context(engine: HFEngine) -> None:
    answer = engine.generate([5] * 508, GREEDY)
    assert (len(answer.token_ids), answer.finish_reason) == (4, "length")


def test_max_length_counts_the_prompt_when_max_new_tokens_is_0(engine: HFEngine) -> None:
    answer = engine.generate(PROMPT, SamplingParams(do_sample=False, max_new_tokens=0, max_length=len(PROMPT) + 3))
    assert len(answer.token_ids) == 3


def test_closing_the_stream_ends_the_work_and_leaves_no_inference_mode_behind(engine: HFEngine) -> None:
    calls = 0
    forward = engine.model.forward

    def counting(*args, **kwargs):
        nonlocal calls
        calls += 1
        return forward(*args, **kwargs)

    engine.model.forward = counting
    try:
        pieces = engine.stream(PROMPT, GREEDY)
        next(pieces)
        next(pieces)
        assert not torch.is_inference_mode_enabled()
        pieces.close()
        assert list(pieces) == []
        assert calls == 2
    finally:
        del engine.model.forward


def test_the_prompt_is_read_once_and_then_one_token_at_a_time(engine: HFEngine) -> None:
    lengths = []
    forward = engine.model.forward
    engine.model.forward = lambda input_ids, **rest: lengths.append(input_ids.shape[1]) or forward(input_ids, **rest)
    try:
        engine.generate(PROMPT, SamplingParams(do_sample=False, max_new_tokens=5))
    finally:
        del engine.model.forward
    assert lengths == [len(PROMPT), 1, 1, 1, 1]


def test_special_tokens_show_only_on_request(engine: HFEngine) -> None:
    wanted = ((1, 100.0),)  # <|im_start|>, again and again
    hidden = SamplingParams(do_sample=False, max_new_tokens=2, logit_bias=wanted)
    assert engine.generate(PROMPT, hidden).text == ""
    assert engine.generate(PROMPT, replace(hidden, skip_special_tokens=False)).text == "<|im_start|>" * 2


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "mistral", "gemma3_text", "phi3", "gpt2"])
def test_other_architectures_answer_as_with_generate(engine: HFEngine, model_type: str) -> None:
    """Sliding windows of 8 tokens where the architecture has them: the prompt is longer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 512, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    window = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, **(sizes | heads | window), eos_token_id=None, bos_token_id=None)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None
    theirs = model.generate(torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False)[0, len(PROMPT) :]
    params = SamplingParams(do_sample=False, max_new_tokens=12)
    assert HFEngine(model, engine.tokenizer).generate(PROMPT, params).token_ids == tuple(theirs.tolist())


def test_markers_that_are_special_tokens_stay_visible_on_request(engine: HFEngine) -> None:
    again_and_again = SamplingParams(do_sample=False, max_new_tokens=2, logit_bias=((1, 100.0),))
    assert engine.generate(PROMPT, replace(again_and_again, visible_ids=(2,))).text == ""
    assert engine.generate(PROMPT, replace(again_and_again, visible_ids=(1,))).text == "<|im_start|>" * 2
