"""The fixture that most tests of the data part start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace, which is also the working directory."""
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)
