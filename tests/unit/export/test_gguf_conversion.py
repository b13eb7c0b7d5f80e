"""GGUF files become plain model folders: same logits, sane special tokens, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model

from tunesmith.errors import ModelError
from tunesmith.model.gguf import convert_gguf
from tunesmith.model.plain import load_plain_model, load_plain_tokenizer

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """llama.cpp's order of the rotary halves: (half, pair) within each head becomes (pair, half)."""
    return weight.view(num_heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(file: Path, base: Path, *, eos_id: int = 2, chat_template: str | None = None) -> None:
    """The tiny Llama of `base` as an unquantized GGUF file, without a padding token."""
    import gguf

    model, tokenizer = load_plain_model(base, torch.float32), load_plain_tokenizer(base)
    config = model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    data = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(data["vocab"], key=data["vocab"].get)
    tokens += [f"<unused_{number}>" for number in range(config.vocab_size - len(tokens))]
    special = set(tokenizer.all_special_tokens) | {"<|im_start|>"}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in data["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos_id)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        part = name.removesuffix(".weight").rpartition(".")[2]
        values = interleaved(tensor, heads[part]) if part in heads else tensor
        writer.add_tensor(gguf_name(name), values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    fixed = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    if name in fixed:
        return f"{fixed[name]}.weight"
    number, _, inner = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
    return f"blk.{number}.{NAMES[inner]}.weight"


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    tiny_model(folder / "base")
    write_gguf(folder / "tiny.gguf", folder / "base")
    return folder


def test_the_folder_computes_what_the_file_holds(parts: Path, tmp_path: Path) -> None:
    notes = convert_gguf(parts / "tiny.gguf", tmp_path / "out", torch.float32)
    ids = torch.arange(3, 60)[None]
    before, after = (
        load_plain_model(folder, torch.float32)(ids).logits for folder in (parts / "base", tmp_path / "out")
    )
    assert (before - after).abs().max() < 1e-5  # rms_norm_eps is stored in float32
    assert any("padding token is the end token" in note for note in notes)


def test_end_and_padding_token_agree_everywhere(parts: Path, tmp_path: Path) -> None:
    convert_gguf(parts / "tiny.gguf", tmp_path / "out", torch.bfloat16)
    tokenizer = load_plain_tokenizer(tmp_path / "out")
    config, generation = (
        json.loads((tmp_path / "out" / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    assert tokenizer.eos_token == "<|im_end|>"
    assert {tokenizer.eos_token_id, config["eos_token_id"], generation["eos_token_id"]} == {2}
    assert {tokenizer.pad_token_id, config["pad_token_id"], generation["pad_token_id"]} == {2}
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"


def test_text_is_tokenized_as_by_the_original(parts: Path, tmp_path: Path) -> None:
    convert_gguf(parts / "tiny.gguf", tmp_path / "out", torch.float32)
    text = "Who are you? 你是谁？ 1 + 2 🙂 <|im_start|>"
    ours, original = (load_plain_tokenizer(folder)(text)["input_ids"] for folder in (tmp_path / "out", parts / "base"))
    assert ours == original


def test_what_is_no_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    with pytest.raises(ModelError, match="not a GGUF file"):
        convert_gguf(tmp_path / "page.gguf", tmp_path / "out", torch.float32)
    with pytest.raises(ModelError, match="no such GGUF file"):
        convert_gguf(tmp_path / "gone.gguf", tmp_path / "out", torch.float32)


def test_a_file_that_was_cut_leaves_no_folder(parts: Path, tmp_path: Path) -> None:
    whole = (parts / "tiny.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"cannot read .*cut\.gguf"):
        convert_gguf(tmp_path / "cut.gguf", tmp_path / "out", torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]


def test_a_folder_in_use_is_not_replaced(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        convert_gguf(parts / "tiny.gguf", tmp_path, torch.float32)


def test_a_missing_reader_package_names_the_extra(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        convert_gguf(parts / "tiny.gguf", tmp_path / "out", torch.float32)
    assert "tunesmith[gguf]" in caught.value.fix
