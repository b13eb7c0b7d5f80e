"""Documents in a flat row never see each other, for several model families, and scores are the model's own."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tunesmith.data.collate import Batch, collate
from tunesmith.data.store import ExampleStore, StoreBuilder
from tunesmith.errors import ModelError
from tunesmith.loss.scores import TokenScores, Want
from tunesmith.model.attention import DOCUMENT_ATTENTION, register_document_attention
from tunesmith.model.scorer import Scorer, verify_scorer
from tunesmith.types import RowRef

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "llama-tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "mistral-window": MistralConfig(**SMALL, sliding_window=4),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "gemma2": Gemma2Config(**SMALL, head_dim=8, sliding_window=4, query_pre_attn_scalar=8),
    "gemma3-text": Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=4, query_pre_attn_scalar=8),
    "phi3": Phi3Config(**SMALL),
    "granite": GraniteConfig(**SMALL, logits_scaling=3.0),
    "cohere": CohereConfig(**SMALL, logit_scale=0.25),
}


CPU = torch.device("cpu")


def _store(seed: int = 0) -> ExampleStore:
    """Three documents of 9, 1 and 6 tokens with mixed weights."""
    generator, builder = np.random.default_rng(seed), StoreBuilder()
    for number, size in enumerate((9, 1, 6)):
        ids, weights = generator.integers(3, 97, size), (generator.random(size) > 0.4).astype(float)
        builder.add(ids.tolist(), weights.tolist(), RowRef("rows", "rows.json", number + 1, number))
    return builder.build()


def _pairs(prefix: int = 7, first: int = 5, second: int = 8, *, equal: bool = False) -> ExampleStore:
    """A plain document, and one with a shared prefix and two branches (and a third after another prefix)."""
    generator, builder = np.random.default_rng(1), StoreBuilder()
    ref = RowRef("rows", "rows.json", 1, 0)
    builder.add(generator.integers(3, 97, 6).tolist(), [0.0, 0.0, 1.0, 1.0, 0.0, 1.0], ref)
    for pieces in ((prefix, first, second), (3, 4)):
        ids = generator.integers(3, 97, sum(pieces)).tolist()
        if equal and len(pieces) == 3:
            ids[prefix + first :] = ids[prefix : prefix + first][:second]
        builder.add(ids, [0.0] * pieces[0] + [1.0] * sum(pieces[1:]), ref, pieces)
    return builder.build()


def _scorer(config: PreTrainedConfig) -> Scorer:
    register_document_attention()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=DOCUMENT_ATTENTION)
    return Scorer(model.eval(), torch.float32, "cpu")


def _reference(config: PreTrainedConfig, batch: Batch) -> torch.Tensor:
    """transformers' own attention on each document alone."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="eager").eval()
    with torch.no_grad():
        logp = model(input_ids=batch.input_ids_BT).logits[0].float().log_softmax(-1)
    return logp[batch.where_N].gather(-1, batch.targets_N[:, None])[:, 0]


def _alone(store: ExampleStore) -> list[Batch]:
    sequences = store.unfold(range(len(store)))
    return [collate(sequences, [number]) for number in range(len(sequences))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("store", [_store(), _pairs()], ids=["documents", "branches"])
def test_packed_equals_alone_equals_the_models_own_attention(family: str, store: ExampleStore) -> None:
    scorer = _scorer(FAMILIES[family])
    with torch.no_grad():
        packed = scorer(collate(store, [0, 1, 2]))
    expected = torch.cat([_reference(FAMILIES[family], batch) for batch in _alone(store)])
    torch.testing.assert_close(packed.logp_N, expected, atol=2e-5, rtol=1e-5)
    assert verify_scorer(scorer, store, [0, 1, 2], CPU) < 1e-4


def test_ten_families_are_visited() -> None:
    assert len(FAMILIES) == 10


@pytest.mark.parametrize(
    "store",
    [_pairs(), _pairs(0), _pairs(1, 1, 1), _pairs(5, 6, 6, equal=True), _pairs(40, 3, 1)],
    ids=["usual", "no prompt", "one token each", "equal answers", "long prompt"],
)
def test_a_shared_prompt_gives_the_scores_and_gradients_of_separate_rows(store: ExampleStore) -> None:
    """Gradients of all weights, for a loss that weighs the sequences against each other."""
    sides = []
    for batches in ([collate(store, [0, 1, 2])], _alone(store)):
        scorer = _scorer(FAMILIES["gemma2"]).train()
        logp_S = torch.cat([scorer(batch).logp_S for batch in batches])
        (logp_S * torch.tensor([0.5, 1.0, -2.0, 0.3])).sum().backward()
        sides.append((logp_S.detach(), {n: p.grad for n, p in scorer.model.named_parameters()}))
    (shared, gradients), (separate, expected) = sides
    torch.testing.assert_close(shared, separate, atol=1e-5, rtol=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_branches_take_the_positions_behind_their_prefix_and_are_predicted_by_its_end() -> None:
    batch = collate(_pairs(7, 2, 3), [1])
    assert batch.positions_BT[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 8, 9]
    assert batch.where_N.tolist() == [6, 7, 6, 9, 10]
    assert batch.sequence_N.tolist() == [0, 0, 1, 1, 1]
    assert batch.ends_S.tolist() == [8, 11]
    assert batch.documents == ((0, 7, 9, 12),)


def test_numbers_of_the_store_reach_the_batch_by_example_sequence_and_token() -> None:
    store = _pairs(2, 1, 2)
    store = store.with_values(
        per_example={"label": np.array([1.0, 2.0, 3.0])},
        per_sequence={"reference": np.array([10.0, 20.0, 30.0, 40.0])},
        per_token={"place": np.arange(store.num_tokens, dtype=np.float32)},
    )
    batch = collate(store, [1, 0])
    assert batch.example_values["label"].tolist() == [2.0, 1.0]
    assert batch.sequence_values["reference"].tolist() == [20.0, 30.0, 10.0]
    assert batch.example_S.tolist() == [0, 0, 1]
    assert batch.token_values["place"].tolist() == [8.0, 9.0, 10.0, 2.0, 3.0, 5.0]
    chosen = store.select([2, 1])
    assert collate(chosen, [1]).sequence_values["reference"].tolist() == [20.0, 30.0]
    assert chosen.content_hash() != store.select([1, 2]).content_hash()


def test_a_change_in_one_document_does_not_move_a_bit_in_another() -> None:
    scorer, store = _scorer(FAMILIES["llama"]), _store()
    other = ExampleStore(**{**vars(store), "ids": np.concatenate([store.ids[:10], store.ids[10:][::-1]])})
    with torch.no_grad():
        before, after = scorer(collate(store, [0, 2])), scorer(collate(other, [0, 2]))
    first = before.sequence_N == 0
    assert torch.equal(before.logp_N[first], after.logp_N[first])
    assert not torch.equal(before.logp_N[~first], after.logp_N[~first])


def test_a_leak_is_noticed_before_training() -> None:
    """One document spanning the row in place of three: the check must see it."""

    class Leaking(Scorer):
        def forward(self, batch: Batch, want: Want | None = None) -> TokenScores:
            return super().forward(replace(batch, documents=((0, batch.input_ids_BT.shape[1]),)), want)

    leaking = Leaking(_scorer(FAMILIES["llama"]).model, torch.float32, "cpu")
    for store in (_store(), _pairs()):
        with pytest.raises(ModelError, match="see each other"):
            verify_scorer(leaking, store, [0, 1, 2], CPU)


def test_a_logit_transform_that_is_not_known_is_noticed() -> None:
    scorer = _scorer(FAMILIES["granite"])
    scorer.transform = type(scorer.transform)()
    with pytest.raises(ModelError, match="own logits"):
        verify_scorer(scorer, _store(), [0, 2], CPU)


def test_numbers_from_whole_logits_are_those_of_the_fast_path_with_the_same_gradient() -> None:
    """`Want.function` goes through another head path: its log-probabilities and gradients must be the same."""
    store = _pairs(140, 90, 100)  # more than one chunk
    batch, sides = collate(store, [0, 1, 2]), []
    for function in (
        None,
        lambda logits, targets, part: {"total": logits.logsumexp(-1), "first": targets * 0 + part.start},
    ):
        scorer = _scorer(FAMILIES["llama"]).train()
        scores = scorer(batch, Want(function=function))
        scores.logp_N.sum().backward()
        sides.append((scores, [p.grad for p in scorer.model.parameters()]))
    (fast, expected), (slow, gradients) = sides
    torch.testing.assert_close(slow.logp_N, fast.logp_N, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert slow.extra["first"].unique().tolist() == [0, 128]
    assert not fast.extra


def test_a_place_holder_row_scores_nothing_and_has_a_graph() -> None:
    scorer = _scorer(FAMILIES["llama"]).train()
    scores = scorer(collate(_store(), []))
    assert scores.logp_N.shape == (0,)
    assert scores.logp_S.shape == (0,)
    scores.logp_N.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in scorer.model.model.layers.parameters())


def test_the_last_token_of_a_document_predicts_nothing_and_the_first_is_not_predicted() -> None:
    store = _store()
    batch = collate(store, [0, 2])
    assert not {8, 14} & set(batch.where_N.tolist())
    assert float(batch.weights_N.sum()) == sum(float(store.example(i)[1][1:].sum()) for i in (0, 2))
    assert batch.positions_BT[0].tolist() == [*range(9), *range(6)]
    assert batch.documents == ((0, 9), (9, 15))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_from_the_states_of_the_first_layer_are_those_of_the_whole_model(family: str) -> None:
    scorer, store = _scorer(FAMILIES[family]), _pairs()
    batch = collate(store, [0, 1, 2])
    with torch.no_grad():
        whole = scorer(batch).logp_N
        states = scorer.states_before(1, batch)
        scorer.num_skipped = 1
        layer = scorer.model.get_decoder().layers[0]
        layer.forward = _refuse  # what stands in must not call it, and must put it back
        kept = scorer(replace(batch, states_TD=states)).logp_N
        assert layer.forward is _refuse
    assert torch.equal(whole, kept)


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("a layer that is left out was run")
