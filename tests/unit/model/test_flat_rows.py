"""Documents in a flat row never see each other, for several model families, and scores are the model's own."""

from __future__ import annotations

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

from tunesmith.data.collate import IGNORED, Batch, collate
from tunesmith.errors import ModelError
from tunesmith.model.attention import DOCUMENT_ATTENTION, register_document_attention
from tunesmith.model.scorer import Scorer, verify_scorer

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


class Rows:
    """Three documents of 9, 1 and 6 tokens with mixed weights."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.ids = [generator.integers(3, 97, n).astype(np.int32) for n in (9, 1, 6)]
        self.weights = [(generator.random(n) > 0.4).astype(np.float32) for n in (9, 1, 6)]

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.ids[index], self.weights[index]


def _scorer(config: PreTrainedConfig) -> Scorer:
    register_document_attention()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=DOCUMENT_ATTENTION)
    return Scorer(model.eval(), torch.float32, "cpu")


def _reference(config: PreTrainedConfig, batch: Batch) -> torch.Tensor:
    """transformers' own attention on each document alone."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    targets = batch.targets_BT[0]
    with torch.no_grad():
        logp = model(input_ids=batch.input_ids_BT).logits[0].float().log_softmax(-1)
    where = targets != IGNORED
    return logp[where].gather(-1, targets[where, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_alone_equals_the_models_own_attention(family: str) -> None:
    scorer, rows = _scorer(FAMILIES[family]), Rows()
    alone = [collate(rows, [i]) for i in range(3)]
    with torch.no_grad():
        packed = scorer(collate(rows, [0, 1, 2]))
    expected = torch.cat([_reference(FAMILIES[family], batch) for batch in alone])
    torch.testing.assert_close(packed.logp_N, expected, atol=2e-5, rtol=1e-5)
    assert verify_scorer(scorer, collate(rows, [0, 1, 2]), alone) < 1e-4


def test_ten_families_are_visited() -> None:
    assert len(FAMILIES) == 10


def test_a_change_in_one_document_does_not_move_a_bit_in_another() -> None:
    scorer, rows = _scorer(FAMILIES["llama"]), Rows()
    with torch.no_grad():
        before = scorer(collate(rows, [0, 2]))
        rows.ids[2] = rows.ids[2][::-1].copy()
        after = scorer(collate(rows, [0, 2]))
    first = before.document_N == 1
    assert torch.equal(before.logp_N[first], after.logp_N[first])
    assert not torch.equal(before.logp_N[~first], after.logp_N[~first])


def test_a_leak_is_noticed_before_training() -> None:
    """One document spanning the row in place of three: the check must see it."""
    scorer, rows = _scorer(FAMILIES["llama"]), Rows()
    row = collate(rows, [0, 1, 2])
    leaking = Batch(row.input_ids_BT, row.targets_BT, row.weights_BT, row.positions_BT, row.segments_BT, (0, 16))
    with pytest.raises(ModelError, match="see each other"):
        verify_scorer(scorer, leaking, [collate(rows, [i]) for i in range(3)])


def test_a_logit_transform_that_is_not_known_is_noticed() -> None:
    scorer, rows = _scorer(FAMILIES["granite"]), Rows()
    scorer.transform = type(scorer.transform)()
    with pytest.raises(ModelError, match="own logits"):
        verify_scorer(scorer, collate(rows, [0, 2]), [collate(rows, [0]), collate(rows, [2])])


def test_a_place_holder_row_scores_nothing_and_has_a_graph() -> None:
    scorer = _scorer(FAMILIES["llama"]).train()
    scores = scorer(collate(Rows(), []))
    assert scores.logp_N.shape == (0,)
    scores.logp_N.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in scorer.model.model.layers.parameters())


def test_the_last_token_of_a_document_predicts_nothing_and_the_first_is_not_predicted() -> None:
    rows = Rows()
    batch = collate(rows, [0, 2])
    assert batch.targets_BT[0, 8] == IGNORED
    assert batch.targets_BT[0, 14] == IGNORED
    assert float(batch.weights_BT.sum()) == sum(float(rows.weights[i][1:].sum()) for i in (0, 2))
    assert batch.positions_BT[0].tolist() == [*range(9), *range(6)]
    assert batch.document_bounds == (0, 9, 15)
