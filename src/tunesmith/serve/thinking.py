"""Thinking on or off while talking: the same template with another `enable_thinking`, where the template has one."""

from __future__ import annotations

from dataclasses import replace

from tunesmith.render import Renderer
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer


class Renderers:
    """The renderer of a session, and its twin that thinks or does not.

    Attributes:
        usual: the renderer that the configuration gave.
        can_think: whether the template knows thoughts, so that there is something to choose.
    """

    def __init__(self, usual: Renderer) -> None:
        self.usual = usual
        self.can_think = bool(usual.dialect.thinking_texts)
        settings = getattr(usual.dialect, "settings", RenderSettings())
        self._made: dict[bool | None, Renderer] = {settings.enable_thinking: usual}
        self._settings: RenderSettings = settings

    @property
    def thinks(self) -> bool:
        """Whether answers think when nobody says otherwise."""
        return self.can_think and self._settings.enable_thinking is not False

    def of(self, thinking: bool | None) -> Renderer:
        """The renderer with thinking on or off; the usual one for None, or where the template has no such choice."""
        if thinking is None or not self.can_think:
            return self.usual
        if thinking is self.thinks:
            return self.usual
        if thinking not in self._made:
            name = None if self.usual.template_name == "the model's own" else self.usual.template_name
            settings = replace(self._settings, enable_thinking=thinking)
            self._made[thinking] = make_renderer(self.usual.tokenizer, name, settings)
        return self._made[thinking]
