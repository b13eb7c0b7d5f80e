"""Stretched positions are transformers' own, are said, are recorded beside an adapter, and are used wherever it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_adapter, tiny_model
from transformers import AutoConfig, Gemma3TextConfig, GPT2Config, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.load import load_for_inference, load_model
from tunesmith.model.rope import RECORD_FILE, apply_positions, context_length, decide_rope, read_record

METHODS = ("linear", "dynamic", "yarn", "llama3")


def _llama(**changes: Any) -> LlamaConfig:
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}
    return LlamaConfig(**sizes, intermediate_size=64, vocab_size=50, max_position_embeddings=512, **changes)


def _config(folder: Path | str = "m", **settings: Any) -> Config:
    return Config(model_name_or_path=str(folder), **settings)


def _decide(config: Config, model: Any, *, for_training: bool = True, folder: Path = Path("none"), adapters=()):
    return decide_rope(config, model, folder, for_training=for_training, adapters=adapters)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("rope") / "model")


def _inv_freq(model: Any) -> torch.Tensor:
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner.model.rotary_emb.inv_freq


@pytest.mark.parametrize("method", METHODS)
def test_a_loaded_model_has_the_frequencies_that_transformers_computes(method: str, base: Path) -> None:
    model = load_model(_config(base, rope_scaling=method, cutoff_len=1500), dtype=torch.float32)
    reference = AutoConfig.from_pretrained(base)
    reference.rope_parameters = {
        "rope_type": method,
        "rope_theta": 10000.0,
        "factor": 3.0,
        **({"original_max_position_embeddings": 512} if method in ("yarn", "llama3") else {}),
        **({"low_freq_factor": 1.0, "high_freq_factor": 4.0} if method == "llama3" else {}),
    }
    expected, attention_factor = ROPE_INIT_FUNCTIONS[method](reference, seq_len=1536)
    torch.testing.assert_close(_inv_freq(model), expected, rtol=1e-6, atol=0)
    assert model.model.rotary_emb.attention_scaling == attention_factor
    assert model.config.max_position_embeddings == 1536
    plain = load_model(_config(base), dtype=torch.float32)
    assert not torch.allclose(_inv_freq(model), _inv_freq(plain), rtol=1e-3)


@pytest.mark.parametrize(("cutoff_len", "factor"), [(513, 2.0), (1024, 2.0), (1025, 3.0), (5000, 10.0)])
def test_the_factor_is_the_next_whole_one_that_holds_cutoff_len(cutoff_len: int, factor: float) -> None:
    decision = _decide(_config(rope_scaling="linear", cutoff_len=cutoff_len), _llama())
    assert decision.scaling is not None
    assert (decision.scaling.factor, decision.scaling.after.max_position_embeddings) == (factor, int(512 * factor))
    assert f"linear by {factor:g}" in decision.note


def test_training_within_the_models_context_stretches_nothing_and_says_so() -> None:
    decision = _decide(_config(rope_scaling="yarn", cutoff_len=512), _llama())
    assert "yarn is not applied: cutoff_len 512 fits the 512 positions" in decision.note
    assert decision.scaling is not None
    assert decision.scaling.before == decision.scaling.after


def test_inference_without_a_record_stretches_by_two_and_says_so() -> None:
    decision = _decide(_config(rope_scaling="linear"), _llama(), for_training=False)
    assert decision.scaling is not None
    assert decision.scaling.after.rope_parameters["factor"] == 2.0
    assert "linear by 2 (512 to 1,024 positions); the factor for inference" in decision.note
    assert _decide(_config(), _llama(), for_training=False) == _decide(_config(), _llama())


def test_dynamic_inference_keeps_the_context_that_transformers_counts_from_and_reads_twice_as_much() -> None:
    model = _llama()
    scaling = _decide(_config(rope_scaling="dynamic"), model, for_training=False).scaling
    assert scaling is not None
    apply_positions(model, scaling.after)
    assert model.max_position_embeddings == 512  # its frequencies begin to move beyond this length
    assert context_length(model) == 1024
    assert context_length(_llama()) == 512


def test_training_with_dynamic_warns_that_it_fixes_the_positions() -> None:
    decision = _decide(_config(rope_scaling="dynamic", cutoff_len=1024), _llama())
    assert decision.scaling is not None
    assert decision.scaling.after.rope_parameters["rope_type"] == "default"
    assert "does not go with training" in decision.note


def test_a_model_without_rotary_positions_is_named() -> None:
    with pytest.raises(ConfigError, match="type gpt2") as caught:
        _decide(_config(rope_scaling="linear", cutoff_len=4096), GPT2Config())
    assert "no rotary positions" in caught.value.why
    assert _decide(_config(cutoff_len=4096), GPT2Config()).scaling is None


def test_another_method_on_stretched_positions_is_refused_the_same_goes_on() -> None:
    llama3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = _llama(rope_parameters={**llama3, "original_max_position_embeddings": 64})
    with pytest.raises(ConfigError, match="stretched already, by llama3") as caught:
        _decide(_config(rope_scaling="yarn", cutoff_len=1024), model)
    assert "rope_scaling: llama3" in caught.value.fix
    scaling = _decide(_config(rope_scaling="llama3", cutoff_len=1024), model).scaling
    assert scaling is not None
    assert scaling.after.rope_parameters["factor"] == 16.0
    assert scaling.after.rope_parameters["original_max_position_embeddings"] == 64


def test_layers_with_a_window_keep_their_positions() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 6}
    model = Gemma3TextConfig(**sizes, head_dim=8, max_position_embeddings=512)
    before = json.loads(json.dumps(model.rope_parameters))
    scaling = _decide(_config(rope_scaling="linear", cutoff_len=1024), model).scaling
    assert scaling is not None
    assert scaling.after.rope_parameters["full_attention"]["factor"] == 2.0
    assert scaling.after.rope_parameters["sliding_attention"] == before["sliding_attention"]


@pytest.fixture
def stretched_adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter whose training stretched the positions of `base` by 3."""
    adapter = tiny_adapter(tmp_path / "adapter", base)
    scaling = decide_rope(
        _config(base, rope_scaling="yarn", cutoff_len=1500), AutoConfig.from_pretrained(base), base, for_training=True
    ).scaling
    assert scaling is not None
    scaling.write(adapter)
    assert read_record(adapter) == scaling
    return adapter


@pytest.mark.parametrize("key", [None, "yarn", "linear"])
def test_an_adapter_is_used_with_the_positions_it_was_trained_with_whatever_the_file_says(
    key: str | None, base: Path, stretched_adapter: Path
) -> None:
    config = _config(base, rope_scaling=key)
    model = load_for_inference(config, (str(stretched_adapter),))
    trained = load_model(_config(base, rope_scaling="yarn", cutoff_len=1500), dtype=torch.float32)
    assert torch.equal(_inv_freq(model), _inv_freq(trained))
    settings = AutoConfig.from_pretrained(base)
    note = _decide(config, settings, for_training=False, adapters=(stretched_adapter,)).note
    assert "as the adapter" in note
    assert ("rope_scaling: linear is not used" in note) == (key == "linear")


def test_an_adapter_that_is_trained_further_starts_from_its_own_positions(base: Path, stretched_adapter: Path) -> None:
    settings = AutoConfig.from_pretrained(base)
    go_on = _decide(_config(base, cutoff_len=1500), settings, adapters=(stretched_adapter,)).scaling
    assert go_on == read_record(stretched_adapter)
    longer = _config(base, rope_scaling="yarn", cutoff_len=3000)
    scaling = _decide(longer, settings, adapters=(stretched_adapter,)).scaling
    assert scaling is not None
    assert scaling.before.max_position_embeddings == 512
    assert (scaling.after.max_position_embeddings, scaling.after.rope_parameters["factor"]) == (3072, 6.0)


def test_a_stretched_adapter_on_another_base_is_refused(stretched_adapter: Path) -> None:
    with pytest.raises(ModelError, match="trained on a base with 512 positions") as caught:
        _decide(_config(), _llama(rope_parameters={"rope_theta": 5e5}), adapters=(stretched_adapter,))
    assert RECORD_FILE in caught.value.where


def test_a_damaged_record_is_named(stretched_adapter: Path) -> None:
    (stretched_adapter / RECORD_FILE).write_text('{"method": "yarn"}')
    with pytest.raises(ModelError, match=RECORD_FILE):
        read_record(stretched_adapter)
