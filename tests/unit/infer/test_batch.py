"""Rollouts: a row's answer is its own, whatever stands beside it; and the model is as before."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tests.tiny import tiny_adapter, tiny_model
from transformers import AttentionInterface

from tunesmith.errors import ModelError
from tunesmith.infer.batch import Rollout, generating, rollout
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.hf import HFEngine
from tunesmith.infer.sampling import choose_token, choose_tokens
from tunesmith.model.attention import DOCUMENT_ATTENTION, document_attention, register_document_attention
from tunesmith.model.evaluating import evaluating
from tunesmith.model.kernels import PLAIN_ATTENTION


class NoText:
    """In place of a tokenizer, where only tokens are compared."""

    def decode(self, ids: list[int], **_: bool) -> str:
        return ""


PROMPTS = [list(range(10 + 3 * n, 12 + 5 * n)) for n in range(1, 9)]  # 4 to 18 tokens
SEEDS = [7 * n for n in range(8)]
GREEDY = SamplingParams(do_sample=False, max_new_tokens=16)
SAMPLED = SamplingParams(
    temperature=1.3, top_k=40, top_p=0.9, repetition_penalty=1.2, max_new_tokens=16, stop_ids=tuple(range(0, 512, 12))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture
def trained(folder, tmp_path):
    """As in a training: PEFT, dropout, attention over flat rows, gradient checkpointing, one module kept in eval."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    register_document_attention()
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=DOCUMENT_ATTENTION)
    adapter = tiny_adapter(tmp_path / "adapter", folder)
    made = PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    made.train()
    base.model.norm.eval()
    return made


def answers(model, prompts, params, seeds, max_batch_tokens=8192) -> list[Rollout]:
    with generating(model):
        return rollout(model, prompts, params, seeds=seeds, max_batch_tokens=max_batch_tokens)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("max_batch_tokens", [1, 80, 100_000])
def test_an_answer_is_the_same_alone_and_in_any_company(model, params: SamplingParams, max_batch_tokens: int) -> None:
    together = answers(model, PROMPTS, params, SEEDS, max_batch_tokens)
    alone = [answers(model, [p], params, [s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert together == alone
    shuffled = [3, 0, 7, 1, 6, 2, 5, 4]
    again = answers(model, [PROMPTS[i] for i in shuffled], params, [SEEDS[i] for i in shuffled], max_batch_tokens)
    assert again == [alone[i] for i in shuffled]


def test_rows_end_at_different_times_and_the_rest_goes_on(model) -> None:
    together = answers(model, PROMPTS, SAMPLED, SEEDS)
    assert len({len(answer.ids) for answer in together}) > 2
    assert {answer.finished for answer in together} == {True, False}
    for answer in together:
        assert answer.finished == (answer.ids[-1] in SAMPLED.stop_ids)
        assert not set(answer.ids[:-1]) & set(SAMPLED.stop_ids)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_equal_those_of_the_chat_engine_with_the_same_seed(model, params: SamplingParams) -> None:
    from dataclasses import replace

    ours = answers(model, PROMPTS, params, SEEDS)
    engine = HFEngine(model, NoText())
    for prompt, seed, answer in zip(PROMPTS, SEEDS, ours, strict=True):
        single = engine.generate(prompt, replace(params, seed=seed))
        assert (single.token_ids, single.finish_reason == "stop") == (answer.ids, answer.finished)


def test_greedy_answers_equal_those_of_transformers_generate(model) -> None:
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    theirs = model.generate(
        ids, attention_mask=mask, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    ours = answers(model, PROMPTS, GREEDY, SEEDS)
    assert [answer.ids for answer in ours] == [tuple(row) for row in theirs[:, width:].tolist()]


def test_one_prompt_with_many_seeds_is_read_once_and_answered_differently(model) -> None:
    widths = []
    forward = model.forward
    model.forward = lambda input_ids, **rest: widths.append(tuple(input_ids.shape)) or forward(input_ids, **rest)
    prompts, seeds = [PROMPTS[3]] * 4 + [PROMPTS[5]], [1, 2, 3, 1, 1]
    try:
        group = answers(model, prompts, SAMPLED, seeds)
    finally:
        del model.forward
    assert widths[0] == (2, len(PROMPTS[5]))
    assert group == [answers(model, [p], SAMPLED, [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert group[0] == group[3]
    assert len({answer.ids for answer in group}) == 4


def test_a_batch_stays_within_its_tokens_and_like_lengths_stand_together(model) -> None:
    shapes = []
    forward = model.forward
    model.forward = lambda input_ids, **rest: shapes.append(tuple(input_ids.shape)) or forward(input_ids, **rest)
    try:
        answers(model, PROMPTS, GREEDY, SEEDS, max_batch_tokens=100)
    finally:
        del model.forward
    reads = [shape for shape in shapes if shape[1] > 1]
    assert sum(rows for rows, _ in reads) == len(PROMPTS)
    assert all(rows * (width + 16) <= 100 for rows, width in reads)
    assert all(earlier[1] > later[1] for earlier, later in pairwise(reads))


def test_a_model_in_training_answers_as_the_loaded_one_does(trained, folder, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path / "adapter")).eval()
    bare = AutoModelForCausalLM.from_pretrained(folder)
    assert answers(trained, PROMPTS, SAMPLED, SEEDS) == answers(plain, PROMPTS, SAMPLED, SEEDS)
    assert answers(trained, PROMPTS, GREEDY, SEEDS) != answers(bare, PROMPTS, GREEDY, SEEDS)


def test_generating_leaves_the_model_exactly_as_it_was(trained) -> None:
    def state() -> tuple:
        modes = [module.training for module in trained.modules()]
        gradients = [parameter.requires_grad for parameter in trained.parameters()]
        base = trained.get_base_model()
        return modes, gradients, base.config._attn_implementation, base.is_gradient_checkpointing

    row = {"input_ids": torch.tensor([PROMPTS[0]]), "document_bounds": ((0, 4),), "use_cache": False}

    def gradient() -> torch.Tensor:
        torch.manual_seed(0)
        trained.zero_grad()
        trained(**row).logits.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in trained.parameters() if p.grad is not None])

    before, first = state(), gradient()
    assert sorted(set(before[0])) == [False, True]
    answers(trained, PROMPTS, SAMPLED, SEEDS)
    assert state() == before
    assert torch.is_grad_enabled()
    assert torch.equal(gradient(), first)
    with pytest.raises(ZeroDivisionError), generating(trained):
        raise ZeroDivisionError
    assert state() == before


def test_generating_computes_in_the_dtype_that_training_computes_in(trained) -> None:
    seen = []
    hook = trained.get_base_model().model.layers[0].mlp.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    with generating(trained, torch.bfloat16):
        rollout(trained, PROMPTS[:2], SamplingParams(do_sample=False, max_new_tokens=2), seeds=[0, 1])
        assert torch.is_autocast_enabled("cpu")
    hook.remove()
    assert set(seen) == {torch.bfloat16}
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("loaded", "generates"),
    [(DOCUMENT_ATTENTION, "sdpa"), (PLAIN_ATTENTION, "eager"), ("sdpa", "sdpa"), ("eager", "eager")],
)
def test_generating_attends_as_the_settings_ask(model, loaded: str, generates: str) -> None:
    register_document_attention()
    AttentionInterface.register(PLAIN_ATTENTION, document_attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(loaded)
    try:
        with generating(model):
            assert model.config._attn_implementation == generates
        assert model.config._attn_implementation == loaded
    finally:
        model.set_attn_implementation(before)


def test_evaluating_gives_every_module_its_own_mode_back() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).train()
    module[1].eval()
    with evaluating(module):
        assert not module.training
        assert not module(torch.ones(1, 2)).requires_grad
    assert (module.training, module[0].training, module[1].training) == (True, True, False)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt2"])
def test_other_architectures_answer_alone_as_in_company(model_type: str) -> None:
    """Sliding windows of 8 tokens where the architecture has them: most prompts and all answers are longer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    register_document_attention()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 512, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    window = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, **(sizes | heads | window), eos_token_id=None, bos_token_id=None)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=DOCUMENT_ATTENTION).eval()
    together = answers(model, PROMPTS, SAMPLED, SEEDS)
    assert together == [answers(model, [p], SAMPLED, [s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    model.set_attn_implementation("eager")
    plain = HFEngine(model, NoText())
    assert answers(model, PROMPTS, GREEDY, SEEDS)[0].ids == plain.generate(PROMPTS[0], GREEDY).token_ids


def test_a_prompt_without_room_for_an_answer_is_refused(model) -> None:
    with generating(model):
        with pytest.raises(ModelError, match=r"512 tokens.*context, 512"):
            rollout(model, [PROMPTS[0], [5] * 512], GREEDY, seeds=[0, 1])
        with pytest.raises(ModelError, match="empty"):
            rollout(model, [[]], GREEDY, seeds=[0])


def test_an_answer_ends_with_the_context_while_others_go_on(model) -> None:
    long, short = answers(model, [[5] * 508, PROMPTS[0]], GREEDY, [0, 0])
    assert (len(long.ids), long.finished, len(short.ids)) == (4, False, 16)


def test_no_prompts_give_no_answers(model) -> None:
    assert answers(model, [], SAMPLED, []) == []


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, SamplingParams(temperature=0.7, top_k=0, top_p=1.0)])
def test_rows_are_chosen_as_one_row_is(params: SamplingParams) -> None:
    logits_BV = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * 3
    seen = [torch.arange(row, 2 * row + 1) for row in range(5)]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(row) for row in range(5)]

    one_by_one = [choose_token(row, ids, params, g) for row, ids, g in zip(logits_BV, seen, generators(), strict=True)]
    assert choose_tokens(logits_BV, seen, params, generators()) == one_by_one
