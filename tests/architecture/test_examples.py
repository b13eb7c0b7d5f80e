"""Every file under examples/ means something to this version, and the pages that list them are complete."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tests.tiny import tiny_adapter, tiny_model
from tests.unit.export.test_gguf_conversion import write_gguf

from tunesmith.config.resolve import resolve
from tunesmith.train.run import train

EXAMPLES = Path(__file__).parents[2] / "examples"
NUM_EXAMPLES = 62
# what a file is for follows from its folder
VERBS = {
    "train_lora": "train",
    "train_full": "train",
    "train_freeze": "train",
    "train_qlora": "train",
    "extras": "train",
    "inference": "chat",
    "merge_lora": "export",
}
PREDICTING = "extras/nlg_eval/"
FILES = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.yaml"))


def verb_of(name: str) -> str:
    """What the file of an example is for."""
    return "predict" if name.startswith(PREDICTING) else VERBS[name.split("/")[0]]


TRAINING = [name for name in FILES if verb_of(name) == "train"]


def test_the_number_of_examples_is_the_expected_one() -> None:
    assert len(FILES) == NUM_EXAMPLES


@pytest.mark.parametrize("name", FILES)
def test_an_example_resolves_for_its_verb_without_a_note(name: str) -> None:
    resolved = resolve([str(EXAMPLES / name)], verb=verb_of(name))
    told = [note for note in resolved.notes if "non-commercial" not in note]  # a licence is told of every time
    assert told == []
    assert resolved.config.model_name_or_path


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_example_also_serves_chat_and_export(name: str) -> None:
    assert resolve([str(EXAMPLES / name)], verb="chat").config.output_dir
    # nothing is merged into a quantized base, so a file of such a run is exported without the bits
    settings = ["export_dir=merged", *(["quantization_bit=null"] if name.startswith("train_qlora/") else [])]
    assert resolve([str(EXAMPLES / name), *settings], verb="export").config.export_dir == "merged"


@pytest.mark.parametrize("page", ["README.md", "README_zh.md"])
def test_the_pages_list_every_example(page: str) -> None:
    text = (EXAMPLES / page).read_text(encoding="utf-8")
    assert [name for name in FILES if f"({name})" not in text] == []


@pytest.mark.parametrize("name", FILES)
def test_an_example_says_how_it_is_run(name: str) -> None:
    head = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()[:2]
    verb = verb_of(name)
    assert head[0].startswith("# ")
    assert head[1] == f"# tunesmith {verb} examples/{name}"


def test_two_examples_never_write_into_one_folder() -> None:
    configs = [resolve([str(EXAMPLES / name)], verb="train").config for name in TRAINING]
    folders = [config.output_dir for config in configs]
    assert len(set(folders)) == len(folders) == len(TRAINING) > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_a_training_example_runs_with_a_tiny_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps on some rows; the data are those that the file names."""
    model = tiny_model(tmp_path / "model")
    short = [
        "max_steps=2",
        "max_samples=16",
        "logging_steps=1",
        "cutoff_len=1024",
        "save_strategy=steps",
        "save_steps=2",
    ]
    given = resolve([str(EXAMPLES / name)], verb="train").config
    base = model
    if str(given.model_name_or_path).endswith(".gguf"):
        base = tmp_path / "packed" / "tiny.gguf"
        base.parent.mkdir()
        write_gguf(base, model)
        monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    places = [
        f"model_name_or_path={base}",
        f"output_dir={tmp_path / 'out'}",
        f"dataset_dir={EXAMPLES.parent / 'data'}",
    ]
    teacher = [f"teacher_model={tiny_model(tmp_path / 'teacher', seed=1)}"] if given.teacher_model else []
    adapter = (
        [f"adapter_name_or_path={tiny_adapter(tmp_path / 'adapter', model)}"] if given.adapter_name_or_path else []
    )
    answers = ["max_new_tokens=8"] if given.stage in ("ppo", "grpo", "gkd") else []
    resolved = resolve(
        [str(EXAMPLES / name), *places, *short, *teacher, *adapter, *answers, "template=chatml"], verb="train"
    )
    assert train(resolved) == 0
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 2
    assert math.isfinite(state["log_history"][0]["loss"])
    assert list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.slow
def test_the_prediction_example_runs_with_a_tiny_model_also_as_the_public_tool_calls_it(tmp_path: Path) -> None:
    from tunesmith.cli.main import main

    (name,) = [name for name in FILES if name.startswith(PREDICTING)]
    model = tiny_model(tmp_path / "model")
    settings = [
        f"model_name_or_path={model}",
        f"adapter_name_or_path={tiny_adapter(tmp_path / 'adapter', model)}",
        f"dataset_dir={EXAMPLES.parent / 'data'}",
        "template=chatml",
        "max_samples=3",
        "max_new_tokens=8",
    ]
    for verb in ("predict", "train"):
        out = tmp_path / verb
        assert main([verb, str(EXAMPLES / name), *settings, f"output_dir={out}"]) == 0
        lines = (out / "generated_predictions.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 6
        assert "predict_rouge-l" in json.loads((out / "all_results.json").read_text(encoding="utf-8"))
    one, other = (tmp_path / verb / "generated_predictions.jsonl" for verb in ("predict", "train"))
    assert one.read_bytes() == other.read_bytes()
