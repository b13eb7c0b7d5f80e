"""`tunesmith verify` on GGUF files: headers and sizes, without any package that reads them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from tests.tiny import tiny_model
from tests.tiny_gguf import tiny_gguf

from tunesmith.cli.main import main
from tunesmith.errors import ModelError
from tunesmith.model import gguf_header
from tunesmith.model.gguf_header import read_gguf_header
from tunesmith.model.wholeness import check_folder, failures


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("gguf")
    return tiny_gguf(tiny_model(folder / "model"), folder / "model.gguf").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, original: bytes) -> Path:
    (tmp_path / "model.gguf").write_bytes(original)
    return tmp_path


def test_the_header_is_what_the_gguf_package_reads(folder: Path) -> None:
    gguf = pytest.importorskip("gguf")
    ours, theirs = read_gguf_header(folder / "model.gguf"), gguf.GGUFReader(folder / "model.gguf")
    assert [(t.name, t.shape, t.begin, t.end - t.begin) for t in ours.tensors] == [
        (t.name, tuple(int(size) for size in t.shape), int(t.data_offset), int(t.n_bytes)) for t in theirs.tensors
    ]
    shared = [key for key in theirs.fields if not key.startswith("GGUF.")]
    assert set(ours.fields) == set(shared)
    for key in shared:
        value = theirs.fields[key].contents()
        assert ours.fields[key] == ((len(value),) if isinstance(value, list) else pytest.approx(value))


def test_whole_files_pass_and_the_command_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failures(check_folder(folder)) == []
    assert main(["verify", str(folder)]) == 0
    assert "GGUF files" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [3, 20, 200, 3000])
def test_a_file_that_ends_in_its_header_is_no_whole_file(folder: Path, original: bytes, kept: int) -> None:
    (folder / "model.gguf").write_bytes(original[:kept])
    assert "model.gguf is no whole GGUF file" in failures(check_folder(folder))[0]


def test_a_file_that_was_cut_off_is_told_with_both_sizes(folder: Path, original: bytes) -> None:
    (folder / "model.gguf").write_bytes(original[:-100])
    found = failures(check_folder(folder))
    assert len(found) == 1
    assert f"it has {len(original) - 100:,} bytes" in found[0]
    assert main(["verify", str(folder)]) == 1


@pytest.mark.parametrize(
    ("place", "bytes_there", "word"),
    [(0, b"GGML", "does not begin"), (4, struct.pack("<I", 9), "version 9"), (8, b"\xff" * 8, "cannot be right")],
)
def test_bytes_that_are_no_gguf_are_refused(
    folder: Path, original: bytes, place: int, bytes_there: bytes, word: str
) -> None:
    (folder / "model.gguf").write_bytes(original[:place] + bytes_there + original[place + len(bytes_there) :])
    with pytest.raises(ModelError) as refused:
        read_gguf_header(folder / "model.gguf")
    assert word in str(refused.value.why)


def test_a_stop_token_that_was_not_proven_or_is_not_there_fails(folder: Path, original: bytes) -> None:
    stop = read_gguf_header(folder / "model.gguf").fields["tokenizer.ggml.eos_token_id"]
    (folder / "proof.json").write_text(json.dumps({"stop_ids": [stop, 7]}))
    assert failures(check_folder(folder)) == []
    (folder / "proof.json").write_text(json.dumps({"stop_ids": [stop + 1]}))
    assert failures(check_folder(folder))[0].startswith("stop tokens")
    (folder / "proof.json").unlink()
    key = b"tokenizer.ggml.eos_token_id"
    at = original.index(key) + len(key) + 4
    (folder / "model.gguf").write_bytes(original[:at] + struct.pack("<I", 10**6) + original[at + 4 :])
    assert "outside its vocabulary" in failures(check_folder(folder))[0]


def test_a_pointer_in_the_place_of_a_file_is_named(folder: Path) -> None:
    (folder / "model.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert any(fault.startswith("LFS pointers") for fault in failures(check_folder(folder)))


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    assert {gguf.GGMLQuantizationType(kind): sizes for kind, sizes in gguf_header._BLOCKS.items()} == {
        kind: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items() if kind.value in gguf_header._BLOCKS
    }
    common = ("F32", "F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
    assert {gguf.GGMLQuantizationType[name].value for name in common} <= set(gguf_header._BLOCKS)
