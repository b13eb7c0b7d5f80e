"""Layouts of ordinary text, for models without turn tokens: default, alpaca, and the bare `empty`."""

from __future__ import annotations

from tunesmith.render.template import Template

TEMPLATES = (
    Template(
        name="default",
        family="plain",
        system="System: {content}{eos}\n",
        user="Human: {content}{eos}\n",
        header="Assistant:",
        gap="\n",
    ),
    Template(
        name="alpaca",
        family="plain",
        system="{content}\n\n",
        default_system="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.",
        user="### Instruction:\n{content}\n\n",
        header="### Response:\n",
        gap="\n\n",
    ),
    Template(
        name="empty",
        family="plain",
        user="{content}",
        end="",
        notes="No markers and no end token: for looking at bare text. Chat training refuses it, since the tuned "
        "model would never stop.",
    ),
)
