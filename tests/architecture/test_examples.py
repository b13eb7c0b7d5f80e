"""Every file under examples/ means something to this version, and the pages that list them are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.config.resolve import resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
NUM_EXAMPLES = 17
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
FILES = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.yaml"))


def test_the_number_of_examples_is_the_expected_one() -> None:
    assert len(FILES) == NUM_EXAMPLES


@pytest.mark.parametrize("name", FILES)
def test_an_example_resolves_for_its_verb_without_a_note(name: str) -> None:
    resolved = resolve([str(EXAMPLES / name)], verb=VERBS[name.split("/")[0]])
    assert resolved.notes == []
    assert resolved.config.model_name_or_path


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("train_")])
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
    verb = VERBS[name.split("/")[0]]
    assert head[0].startswith("# ")
    assert head[1] == f"# tunesmith {verb} examples/{name}"


def test_two_examples_never_write_into_one_folder() -> None:
    configs = [resolve([str(EXAMPLES / name)], verb="train").config for name in FILES if name.startswith("train_")]
    folders = [config.output_dir for config in configs]
    assert len(set(folders)) == len(folders) == 9
