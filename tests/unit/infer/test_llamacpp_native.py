"""llama.cpp as a forward pass: its logits are transformers', its cache keeps sequences apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny import tiny_model
from tests.tiny_gguf import tiny_gguf

from tunesmith.errors import ModelError
from tunesmith.infer import llamacpp_native
from tunesmith.infer.llamacpp_native import BATCH_TOKENS, NativeModel, Piece
from tunesmith.model.plain import load_plain_model, load_plain_tokenizer

TEXT = "<|im_start|>user\nWho are you? 你是谁？ 1234<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tiny_model(tmp_path_factory.mktemp("native") / "base")
    tiny_gguf(path, path / "model.gguf")
    return path


@pytest.fixture
def native(folder: Path):
    model = NativeModel(folder / "model.gguf", num_slots=3, max_length=64)
    yield model
    model.close()


def close_to(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for llama.cpp's cache in 16 bits: 11 significant bits, a few layers deep."""
    return float(np.abs(found - expected).max()) < 5e-3 * float(np.abs(expected).max())


def test_logits_are_those_of_transformers(folder: Path, native: NativeModel) -> None:
    ids = native.tokenize(TEXT)
    with torch.inference_mode():
        expected = load_plain_model(folder, torch.float32)(torch.tensor([ids])).logits[0].numpy()
    found = native.decode([Piece(0, 0, ids, all_logits=True)])[0]
    assert found.shape == expected.shape
    assert close_to(found, expected)
    assert not close_to(found[1:], expected[:-1])


def test_tokens_are_those_of_the_tokenizer(folder: Path, native: NativeModel) -> None:
    tokenizer = load_plain_tokenizer(folder)
    assert native.tokenize(TEXT) == tuple(tokenizer(TEXT)["input_ids"])
    assert native.tokenize("<|im_end|>") == (2,)
    assert len(native.tokenize("<|im_end|>", parse_special=False)) > 1
    assert (native.num_tokens, native.adds_bos, native.trained_length) == (512, False, 512)


def test_sequences_in_one_pass_do_not_touch_each_other(native: NativeModel) -> None:
    ids = native.tokenize(TEXT)
    alone = native.decode([Piece(0, 0, ids)])[0]
    short, whole = native.decode([Piece(1, 0, ids[:4]), Piece(2, 0, ids)])
    assert short.shape == whole.shape == (1, 512)
    assert np.allclose(whole, alone, atol=1e-4)
    assert not np.allclose(short, alone, atol=1e-2)
    continued = native.decode([Piece(1, 4, ids[4:])])[0]
    assert np.allclose(continued, alone, atol=1e-4)


def test_what_is_forgotten_is_not_seen(native: NativeModel) -> None:
    ids = native.tokenize(TEXT)
    first = native.decode([Piece(0, 0, ids)])[0]
    native.decode([Piece(0, len(ids), [7, 8, 9])])
    assert native.forget(0, len(ids) - 1)
    assert np.allclose(native.decode([Piece(0, len(ids) - 1, ids[-1:])])[0], first, atol=1e-4)


def test_a_prompt_longer_than_a_batch_is_read_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp_native, "BATCH_TOKENS", 8)
    model = NativeModel(folder / "model.gguf", max_length=64)
    ids = model.tokenize(TEXT)
    assert len(ids) > 2 * 8
    in_parts = model.decode([Piece(0, 0, ids, all_logits=True)])[0]
    model.close()
    monkeypatch.setattr(llamacpp_native, "BATCH_TOKENS", BATCH_TOKENS)
    model = NativeModel(folder / "model.gguf", max_length=64)
    assert np.allclose(in_parts, model.decode([Piece(0, 0, ids, all_logits=True)])[0], atol=1e-4)
    model.close()


def test_the_context_is_what_was_asked_for_and_never_more_than_was_trained(folder: Path) -> None:
    for asked, given in ((64, 64), (0, 512), (4096, 512)):
        model = NativeModel(folder / "model.gguf", num_slots=2, max_length=asked)
        assert model.context_length == given
        model.close()
        model.close()


def test_what_is_no_model_is_refused_in_words(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such GGUF file"):
        NativeModel(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes((folder / "model.gguf").read_bytes()[:4000])
    with pytest.raises(ModelError, match="cannot load") as error:
        NativeModel(tmp_path / "bad.gguf")
    assert error.value.why
    model = NativeModel(folder / "model.gguf", max_length=64)
    with pytest.raises(ModelError, match="cannot load the adapter"):
        model.use_adapter(folder / "model.gguf")
    model.close()


def test_a_library_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    llamacpp_native.library.cache_clear()
    monkeypatch.setattr(llamacpp_native, "_CONTEXT_DEFAULTS", (512, 2048, 512, 2))
    with pytest.raises(ModelError, match="cannot be used") as error:
        llamacpp_native.library()
    assert "(512, 2048, 512, 1)" in error.value.why
    monkeypatch.undo()
    llamacpp_native.library.cache_clear()
    monkeypatch.setattr(llamacpp_native.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed"):
        llamacpp_native.library()
