"""Follows docs/howto/add-a-format.md to the letter: its file, its line, its promise."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from data_workspace import Workspace

from tunesmith.data.formats import FORMATS
from tunesmith.errors import DataError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "add-a-format.md"


@pytest.fixture
def dialogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's code as a module, and its line in the table."""
    code, line = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    name, target = re.findall(r'"([^"]+)"', line)
    module = ModuleType(target.partition(":")[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setattr(FORMATS, "_targets", {**FORMATS._targets, name: target})
    yield
    FORMATS._loaded.pop(name, None)


ROWS = [{"dialogue": ["q1", "a1", "q2", "a2"]}, {"dialogue": ["q3", "a3"]}]


@pytest.mark.usefixtures("dialogue")
def test_the_format_of_the_page_is_registered_and_recognised(workspace: Workspace) -> None:
    workspace.write("rows.jsonl", ROWS)
    workspace.register(d={"file_name": "rows.jsonl", "formatting": "dialogue"})
    for name in ("d", "rows.jsonl"):
        totals = workspace.prepare(name).ledger.totals["train"]
        assert (totals.num_rows, totals.num_turns) == (2, 3)


@pytest.mark.usefixtures("dialogue")
def test_its_bad_rows_are_named(workspace: Workspace) -> None:
    workspace.write("rows.jsonl", [*ROWS, {"dialogue": "q"}, {"dialogue": ["q"]}])
    with pytest.raises(DataError) as caught:
        workspace.prepare("rows.jsonl")
    assert "rows.jsonl:3: `dialogue` is text, expected a list of texts" in caught.value.why
    assert "rows.jsonl:4: `dialogue[0]` is the last turn" in caught.value.why


def test_without_the_page_its_format_is_unknown(workspace: Workspace) -> None:
    workspace.write("rows.jsonl", ROWS)
    workspace.register(d={"file_name": "rows.jsonl", "formatting": "dialogue"})
    with pytest.raises(DataError, match="unknown formatting 'dialogue'"):
        workspace.prepare("d")
