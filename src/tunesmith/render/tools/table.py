"""The tool formats by name."""

from __future__ import annotations

from tunesmith.errors import TemplateError, did_you_mean
from tunesmith.render.tools.base import ToolFormat
from tunesmith.render.tools.deepseek import DeepSeek
from tunesmith.render.tools.gemma4 import Gemma4
from tunesmith.render.tools.parameters import Glm4Moe, MiniMax2, Qwen35, SeedOss
from tunesmith.render.tools.plain import Default
from tunesmith.render.tools.python_calls import Lfm2
from tunesmith.render.tools.tagged import Ling, MiniMax1, Qwen
from tunesmith.render.tools.whole import Glm4, Llama3, Mistral

_MADE: tuple[ToolFormat, ...] = (
    Default(), DeepSeek(), Gemma4(), Lfm2(), Glm4Moe(), Qwen35(), SeedOss(),
    MiniMax2(), MiniMax1(), Mistral(), Qwen(), Ling(), Glm4(), Llama3(),
)  # fmt: skip
FORMATS: dict[str, ToolFormat] = {made.name: made for made in _MADE}
"""Every format. Their order is that in which `recognise` tries them: what could be taken for another comes first."""


def get_format(name: str) -> ToolFormat:
    """The format called `name`. Raises: TemplateError for an unknown name, with the nearest one."""
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS)
        raise TemplateError(
            f"unknown tool format '{name}'",
            where="tool_format",
            fix=f"{hint} Known: {', '.join(FORMATS)}. Leave `tool_format` out to use the template's.".strip(),
        )
    return FORMATS[name]


def recognise(source: str) -> ToolFormat | None:
    """The format in which a Jinja template writes calls, by the texts in it; None when it is none of these."""
    for made in FORMATS.values():
        if any(all(text in source for text in texts) for texts in made.sources):
            return made
    return None
