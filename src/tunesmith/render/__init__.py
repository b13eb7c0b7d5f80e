"""Conversations to tokens and back: one renderer for training, chat, API, prediction and export.

`template.py` and `families/` are the layouts as data, `slots.py` and `jinja.py` write them as text, `encode.py` makes
tokens, `renderer.py` decides what is trained, `contract.py` holds a run to it.
"""

from __future__ import annotations

from tunesmith.render.load import load_renderer
from tunesmith.render.renderer import Renderer, RenderPolicy

__all__ = ["RenderPolicy", "Renderer", "load_renderer"]
