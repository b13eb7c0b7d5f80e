"""Which model and adapters a configuration means; empty safetensors files stand for weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.config.resolve import resolve
from tunesmith.errors import ModelError
from tunesmith.infer.locate import Located, locate

EMPTY_WEIGHTS = (2).to_bytes(8, "little") + b"{}"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def adapter(name: str) -> Path:
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(EMPTY_WEIGHTS)
    return folder


def model(name: str) -> Path:
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes(EMPTY_WEIGHTS)
    return folder


def found(*arguments: str, finetuning_type: str = "lora") -> Located:
    argv = ["model_name_or_path=base", f"finetuning_type={finetuning_type}", *arguments]
    return locate(resolve(argv, verb="chat"))


def found_from_file(text: str, *arguments: str) -> Located:
    Path("train.yaml").write_text(
        "model_name_or_path: base\nstage: sft\nfinetuning_type: lora\noutput_dir: out\n" + text
    )
    return locate(resolve(["train.yaml", *arguments], verb="chat"))


def test_without_adapter_and_run_it_is_the_base() -> None:
    located = found()
    assert (located.model, located.adapters, located.notes) == ("base", (), ())
    assert located.describe() == "base"


def test_named_adapters_are_used_in_their_order() -> None:
    adapter("b"), adapter("a")
    located = found("adapter_name_or_path=b,a")
    assert located.adapters == ("b", "a")
    assert located.describe() == "base + adapter b + adapter a"


def test_a_training_file_leads_to_the_adapter_it_has_trained() -> None:
    adapter("out")
    adapter("out/checkpoint-5")
    located = found_from_file("")
    assert (located.adapters, located.run_dir, located.notes) == (("out",), Path("out"), ())


def test_without_a_final_adapter_the_newest_whole_checkpoint_is_used_and_named() -> None:
    for step in (9, 10, 11):
        adapter(f"out/checkpoint-{step}")
    torn = Path("out/checkpoint-11/adapter_model.safetensors")
    torn.write_bytes(EMPTY_WEIGHTS[:-1])
    located = found_from_file("")
    assert located.adapters == ("out/checkpoint-10",)  # 10 is newer than 9 by number, not by name
    assert "checkpoint-10" in located.notes[0]
    assert "skipped checkpoint-11" in located.notes[0]


def test_a_run_that_has_left_nothing_is_an_error_with_a_way_on() -> None:
    Path("out").mkdir()
    with pytest.raises(ModelError, match=r"out holds no tuned adapter") as caught:
        found_from_file("")
    assert "tunesmith train" in caught.value.fix


def test_a_full_run_is_the_model_itself() -> None:
    model("out")
    located = found_from_file("", "finetuning_type=full")
    assert (located.model, located.adapters) == ("out", ())


def test_an_adapter_that_training_continued_is_replaced_by_the_result() -> None:
    adapter("out"), adapter("first"), adapter("second")
    assert found_from_file("adapter_name_or_path: first\n").adapters == ("out",)
    assert found_from_file("adapter_name_or_path: first,second\n").adapters == ("first", "out")
    stacked = found_from_file("adapter_name_or_path: first,second\ncreate_new_adapter: true\n")
    assert stacked.adapters == ("first", "second", "out")


def test_an_adapter_named_on_the_command_line_wins_over_the_run() -> None:
    adapter("out"), adapter("other")
    assert found_from_file("", "adapter_name_or_path=other").adapters == ("other",)


def test_output_dir_null_asks_for_the_base_alone() -> None:
    adapter("out")
    assert found_from_file("", "output_dir=null").adapters == ()


def test_a_missing_adapter_is_named() -> None:
    with pytest.raises(ModelError, match="no adapter at gone"):
        found("adapter_name_or_path=gone")


def test_a_pickled_adapter_is_refused_with_the_reason() -> None:
    folder = adapter("old")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError) as caught:
        found("adapter_name_or_path=old")
    assert "pickle" in caught.value.why


def test_the_render_contract_of_the_run_is_found_from_its_checkpoint() -> None:
    adapter("out/checkpoint-3")
    Path("out/render_contract.json").write_text("{}")
    assert found("adapter_name_or_path=out/checkpoint-3").run_dir == Path("out")
