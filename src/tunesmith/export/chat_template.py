"""Which chat template goes with the exported model: its own, when it renders the same prompts, else one made here.

Whoever loads the folder (transformers, vLLM, llama.cpp's converter) prompts it through the Jinja template in it. If
that lays turns out in another way than training did, the model answers worse and nothing tells. So the model's own
template stays only if it gives the renderer's tokens on every probe conversation; otherwise the template that was
trained with is written as Jinja and held to the same test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.export.jinja import jinja_of, writes_tools
from tunesmith.model.quiet import quiet_transformers
from tunesmith.render import Renderer
from tunesmith.render.compare import compare_with_own
from tunesmith.render.probes import TOOL_PROBES, Probe, probe_conversations


@dataclass(frozen=True)
class ChatTemplateChoice:
    """What was decided.

    Attributes:
        jinja: the template for the folder; None when there is none.
        is_faithful: it renders every probe as the renderer does.
        note: what the user should know; empty when the model's own template stays and is right.
    """

    jinja: str | None
    is_faithful: bool
    note: str


def choose_chat_template(renderer: Renderer) -> ChatTemplateChoice:
    """Decide which template to write. The tokenizer of `renderer` is left as it was."""
    own = renderer.tokenizer.chat_template
    made = jinja_of(renderer)
    probes = [*probe_conversations(), *(TOOL_PROBES if made is None or writes_tools(renderer) else ())]
    own_difference = _difference(renderer, own, probes, may_refuse=True)
    if own and not own_difference:
        return ChatTemplateChoice(own, True, "")
    reason = own_difference if own else "the model has none"
    if made and not _difference(renderer, made, probes, may_refuse=False):
        note = f"chat template written from template {renderer.template_name} ({reason})"
        if not writes_tools(renderer):
            note += f", without tools, since their format ({renderer.tool_format}) cannot be written as Jinja"
        return ChatTemplateChoice(made, True, note)
    if own:
        note = f"the model's own chat template stays, but does not always give the prompts of training: {reason}"
        return ChatTemplateChoice(own, False, note)
    return ChatTemplateChoice(None, False, f"no chat template is written: {renderer.template_name} has no Jinja form")


def _difference(renderer: Renderer, jinja: str | None, probes: Sequence[Probe], *, may_refuse: bool) -> str:
    """The first probe that `jinja` renders differently, in words; empty when there is none.

    Args:
        probes: the conversations to compare.
        may_refuse: many models' own templates refuse a system turn on purpose; one that is written here may not.
    """
    tokenizer = renderer.tokenizer
    before = tokenizer.chat_template
    tokenizer.chat_template = jinja
    try:
        with quiet_transformers():  # the long probes exceed some models' context; nothing is computed on them
            results = compare_with_own(renderer, probes) if jinja else []
    finally:
        tokenizer.chat_template = before
    for result in results:
        if result.verdict == "differs":
            return f"conversation '{result.probe}' differs: trained {result.ours}, there {result.theirs}"
        if result.verdict == "refused" and not result.ours and not may_refuse:
            return f"conversation '{result.probe}' is refused"
    return ""
