"""Makes the vocabularies of tests/golden importable, and small ones available as fixtures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "golden"))

from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer


@pytest.fixture
def chatml_renderer() -> Callable[..., Renderer]:
    """A renderer over a small byte-level vocabulary with ChatML tokens; keyword arguments are its settings."""
    import vocabularies

    def build(template: str = "chatml", **settings: object) -> Renderer:
        return make_renderer(vocabularies.byte_level("chatml"), template, RenderSettings(**settings))  # type: ignore[arg-type]

    return build
