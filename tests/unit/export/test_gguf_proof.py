"""The proof of a GGUF file: it holds for the right file and names what is wrong with every planted one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tests.tiny import tiny_adapter, tiny_model
from tests.tiny_gguf import tiny_gguf

from tunesmith.config.resolve import resolve
from tunesmith.export.gguf import gguf_table
from tunesmith.export.gguf_prompts import GGUF_PROMPTS, NUM_PROMPTS, make_gguf_task
from tunesmith.export.gguf_proof import _divergence, prove_files
from tunesmith.infer.locate import locate
from tunesmith.infer.session import open_renderer
from tunesmith.model.adapters import merge_adapters
from tunesmith.model.load import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base, an adapter, the merged model as GGUF and the base as GGUF."""
    path = tmp_path_factory.mktemp("proof")
    tiny_model(path / "base")
    tiny_adapter(path / "adapter", path / "base")
    config = resolve([f"model_name_or_path={path / 'base'}", f"export_dir={path / 'x'}"], verb="export").config
    model = load_model(config, dtype=torch.float32, device="cpu", for_training=False)
    merge_adapters(model, [str(path / "adapter")]).save_pretrained(path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / "merged" / name).write_bytes((path / "base" / name).read_bytes())
    tiny_gguf(path / "merged", path / "model-f32.gguf")
    tiny_gguf(path / "base", path / "model-base.gguf")
    return path


@pytest.fixture(scope="module")
def task(folder: Path) -> dict[str, Any]:
    arguments = (f"model_name_or_path={folder / 'base'}", f"adapter_name_or_path={folder / 'adapter'}")
    resolved = resolve([*arguments, f"export_dir={folder / 'x'}"], verb="export")
    located = locate(resolved)
    renderer = open_renderer(resolved.config, located)
    made = make_gguf_task(resolved.config, located, renderer, ["model-f32.gguf"], compute_dtype="float32")
    return json.loads(json.dumps(made))


def test_the_right_file_holds(folder: Path, task: dict[str, Any]) -> None:
    measured = prove_files(task, folder)
    file = measured["files"]["model-f32.gguf"]
    assert measured["problems"] == []
    assert (measured["num_prompts"], NUM_PROMPTS, len(GGUF_PROMPTS)) == (20, 20, 20)
    assert file["num_prompts_equal"] == 20
    assert file["num_texts_equal"] == measured["num_texts"] > 100
    assert file["num_answers_equal"] >= 19  # a cache in 16 bits may turn one nearly level choice
    assert file["greedy_agreement"] > 0.99
    assert file["kl_mean"] < 1e-6 < 1e-2 < measured["adapter_effect_kl"]
    assert file["loss"] == pytest.approx(measured["loss_of_tuned"], abs=1e-3)
    assert file["size_bytes"] == (folder / "model-f32.gguf").stat().st_size
    assert "model-f32.gguf" in gguf_table(measured)


@pytest.fixture(scope="module")
def short(task: dict[str, Any]) -> dict[str, Any]:
    """The task with few prompts: planted faults are large."""
    return {**task, "prompts": task["prompts"][:4]}


def rewritten(source: Path, out: Path, change: Callable[[str, Any], Any]) -> Path:
    """`source` with metadata changed by `change(name, value)`."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, change(field.name, field.contents()), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def is_of(name: str, wrong: Any) -> Callable[[str, Any], Any]:
    return lambda field, value: wrong(value) if field == name else value


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (is_of("tokenizer.ggml.pre", lambda _: "llama-bpe"), "texts as other tokens"),
        (is_of("tokenizer.ggml.merges", lambda merges: merges[::-1]), "prompts as other tokens"),
        (is_of("tokenizer.ggml.token_type", lambda kinds: [1] * len(kinds)), "prompts as other tokens"),
        (is_of("llama.rope.freq_base", lambda _: 500.0), "more than its rounding explains"),
    ],
    ids=["pre-tokenizer", "merges", "special tokens", "positions"],
)
def test_wrong_metadata_is_found(
    folder: Path, short: dict[str, Any], tmp_path: Path, change: Callable[[str, Any], Any], problem: str
) -> None:
    rewritten(folder / "model-f32.gguf", tmp_path / "model-f32.gguf", change)
    problems = prove_files(short, tmp_path)["problems"]
    assert any(problem in found for found in problems), problems


def test_the_base_in_place_of_the_tuned_model_is_found(folder: Path, short: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model-q4_k_m.gguf").symlink_to(folder / "model-base.gguf")
    problems = prove_files({**short, "files": ["model-q4_k_m.gguf"]}, tmp_path)["problems"]
    assert any("nearer to the base" in found for found in problems), problems


def test_one_wrong_matrix_is_found(folder: Path, short: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((folder / "merged" / "config.json").read_bytes())
    (tmp_path / "tokenizer.json").write_bytes((folder / "merged" / "tokenizer.json").read_bytes())
    tensors = load_file(folder / "merged" / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] = load_file(folder / "base" / "model.safetensors")[
        "model.layers.1.mlp.down_proj.weight"
    ]
    save_file(tensors, tmp_path / "model.safetensors")
    tiny_gguf(tmp_path, tmp_path / "model-f32.gguf")
    problems = prove_files(short, tmp_path)["problems"]
    assert any("more than its rounding explains" in found for found in problems), problems


def test_the_divergence_is_in_nats_and_never_hides_a_nan() -> None:
    half = torch.tensor([[0.5, 0.5]]).log()
    skewed = torch.tensor([[0.25, 0.75]]).log()
    expected = 0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(2 / 3).log()
    assert _divergence([half], [skewed]).item() == pytest.approx(expected.item(), rel=1e-6)
    assert _divergence([half], [half * float("nan")]).item() == float("inf")
