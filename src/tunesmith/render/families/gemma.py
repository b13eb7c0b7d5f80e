"""Gemma, Gemma 2 and Gemma 3: one layout, the system text merged into the first user's words.

Gemma 3's template is also that of its text-only sizes (270M, 1B): nothing here needs the image tokens.
"""

from __future__ import annotations

from dataclasses import replace

from tunesmith.render.template import Template, ToolTurns

_GEMMA = Template(
    name="gemma",
    family="gemma",
    prefix="{bos}",
    system="{content}\n\n",
    system_place="first_user",
    user="<start_of_turn>user\n{content}<end_of_turn>\n",
    header="<start_of_turn>model\n",
    end="<end_of_turn>",
    gap="\n",
    stops=("<eos>",),
    required_tokens=("<start_of_turn>", "<end_of_turn>"),
    trims=("user", "assistant"),
    tools=ToolTurns(turn="{content}", result="<start_of_turn>tool\n{content}<end_of_turn>\n"),
    notes="The own template of Gemma 1 and 2 refuses a system turn; here it is merged, as in Gemma 3's.",
)

TEMPLATES = (
    _GEMMA,
    replace(_GEMMA, name="gemma2"),
    replace(_GEMMA, name="gemma3", notes="Text-only and multimodal Gemma 3 alike."),
)
