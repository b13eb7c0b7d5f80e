"""K-quants: llama.cpp's choice of types, its kernels' bytes, and a file that it loads."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from tests.tiny import tiny_model
from tests.tiny_gguf import tiny_gguf

from tunesmith.errors import ExportError
from tunesmith.export.gguf_quantize import K_TYPES, Plan, quantize_file, quantize_rows
from tunesmith.infer.llamacpp_native import NativeModel, Piece

# Worst relative error (rms over rms) of Gaussian rows, by bits: a step is about 2 x 3 sigma / 2^bits, and a uniform
# error has the rms of a step / sqrt(12), so 4 bits give 0.11, 5 bits 0.055, 6 bits 0.03; blocks do a little better.
LARGEST_ERROR = {"Q4_K": 0.11, "Q5_K": 0.055, "Q6_K": 0.03, "Q5_0": 0.06, "Q5_1": 0.06, "Q8_0": 0.008}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("quantize") / "base")
    return tiny_gguf(folder, folder / "model.gguf")


def gaussian(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("type_name", "largest"), LARGEST_ERROR.items())
def test_rows_come_back_within_the_error_of_their_bits(type_name: str, largest: float) -> None:
    rows = gaussian((3, 4, 512))
    back = dequantize(quantize_rows(rows, type_name), gguf.GGMLQuantizationType[type_name])
    error = float(np.sqrt(np.mean((back - rows) ** 2)))
    assert largest / 4 < error < largest


def test_q8_0_bytes_are_those_of_the_gguf_package() -> None:
    rows = gaussian((5, 96))
    assert np.array_equal(quantize_rows(rows, "Q8_0"), quantize(rows, gguf.GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize(
    ("scheme", "name", "row_length", "expected"),
    [
        ("q4_k_m", "blk.5.attn_q.weight", 512, "Q4_K"),
        ("q4_k_m", "blk.0.attn_v.weight", 512, "Q6_K"),  # first eighth
        ("q4_k_m", "blk.4.attn_v.weight", 512, "Q4_K"),
        ("q4_k_m", "blk.6.ffn_down.weight", 512, "Q6_K"),  # (6 - 4) % 3 == 2
        ("q4_k_m", "blk.7.ffn_down.weight", 512, "Q4_K"),
        ("q4_k_m", "blk.28.ffn_down.weight", 512, "Q6_K"),  # last eighth
        ("q4_k_m", "blk.26.ffn_down.weight", 512, "Q4_K"),
        ("q4_k_m", "blk.6.attn_k.weight", 512, "Q4_K"),
        ("q4_k_m", "blk.5.attn_qkv.weight", 512, "Q5_K"),
        ("q5_k_m", "blk.5.attn_qkv.weight", 512, "Q6_K"),
        ("q5_k_m", "blk.5.attn_q.weight", 512, "Q5_K"),
        ("q6_k", "blk.5.attn_q.weight", 512, "Q6_K"),
        ("q4_k_m", "output.weight", 512, "Q6_K"),
        ("q4_k_m", "output.weight", 576, "Q8_0"),
        ("q4_k_m", "token_embd.weight", 512, "Q4_K"),
        ("q4_k_m", "blk.5.attn_q.weight", 576, "Q5_0"),  # short rows
        ("q5_k_m", "blk.5.attn_q.weight", 576, "Q5_1"),
        ("q4_k_m", "blk.0.attn_v.weight", 576, "Q8_0"),
        ("q6_k", "blk.5.attn_q.weight", 576, "Q8_0"),
        ("q4_k_m", "blk.5.attn_q.weight", 40, "F16"),
    ],
)
def test_each_tensor_gets_the_type_that_llamacpp_gives_it(
    scheme: str, name: str, row_length: int, expected: str
) -> None:
    assert Plan(scheme, 32, has_output=True).type_of(name, row_length) == expected


def test_tied_embeddings_are_kept_as_a_head_is() -> None:
    assert Plan("q4_k_m", 32, has_output=False).type_of("token_embd.weight", 512) == "Q6_K"


@pytest.mark.parametrize("scheme", K_TYPES)
def test_a_quantized_file_loads_and_answers_nearly_as_before(source: Path, tmp_path: Path, scheme: str) -> None:
    out = tmp_path / "out.gguf"
    counts = quantize_file(source, out, scheme)
    assert counts["F32"] == 5  # the norms of two layers and the last one
    assert sum(counts.values()) == len(gguf.GGUFReader(source).tensors)
    fields, before = gguf.GGUFReader(out).fields, gguf.GGUFReader(source).fields
    names = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type", "llama.rope.freq_base")
    assert all(fields[name].contents() == before[name].contents() for name in names)
    assert fields["general.file_type"].contents() == {"q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}[scheme]
    logits = []
    for file in (source, out):
        model = NativeModel(file, max_length=32)
        logits.append(model.decode([Piece(0, 0, range(5, 15), all_logits=True)])[0])
        model.close()
    error = float(np.sqrt(np.mean((logits[1] - logits[0]) ** 2)) / np.std(logits[0]))
    assert 0 < error < {"q4_k_m": 0.2, "q5_k_m": 0.2, "q6_k": 0.03}[scheme]
    assert out.stat().st_size < source.stat().st_size / 2


def test_what_is_quantized_already_is_refused(source: Path, tmp_path: Path) -> None:
    quantize_file(source, tmp_path / "once.gguf", "q6_k")
    with pytest.raises(ExportError, match="quantized already"):
        quantize_file(tmp_path / "once.gguf", tmp_path / "twice.gguf", "q4_k_m")
