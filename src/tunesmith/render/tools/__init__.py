"""How tools are told to a model and how it calls them: one format per way of writing, chosen by name.

A template names its format (`ToolTurns.format` in render/template.py); a model's own Jinja template writes its own, and
`recognise` finds out which one, so that its answers can be read.
"""

from __future__ import annotations

from tunesmith.render.tools.base import ToolFormat
from tunesmith.render.tools.table import FORMATS, get_format, recognise

__all__ = ["FORMATS", "ToolFormat", "get_format", "recognise"]
