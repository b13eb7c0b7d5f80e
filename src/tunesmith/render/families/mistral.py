"""Mistral instruct models with the v2/v3 tokenizers (7B-Instruct-v0.3, Mixtral 8x22B, ...).

`[INST]` and `[/INST]` are tokens there and ordinary text in older vocabularies; the text is the same.
"""

from __future__ import annotations

from tunesmith.render.template import Template, ToolTurns

TEMPLATES = (
    Template(
        name="mistral",
        family="mistral",
        prefix="{bos}",
        system="{content}\n\n",
        system_place="last_user",
        user="[INST] {content}[/INST]",
        answer=" {content}",
        tools=ToolTurns(
            "mistral", turn="{content}", result="[TOOL_RESULTS] {content}[/TOOL_RESULTS]", calls="{content}"
        ),
        notes="The system text goes in front of the last user's words, as in Mistral's own tokenizer (v2, v3) and "
        "Jinja template, so a dialogue of several turns with a system text becomes one example per answer. "
        "LLaMA-Factory puts it in front of the first. Tools stand in front of that turn, also as "
        "in Mistral's tokenizer.",
    ),
)
