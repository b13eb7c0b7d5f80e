"""Compares a renderer with the model's own Jinja template, token by token.

Both sides render the generation prompt of every probe. A conversation that the own template refuses is reported,
not counted as equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.errors import DataError
from tunesmith.render.contract import first_difference, show_difference
from tunesmith.render.jinja import own_template_ids
from tunesmith.render.probes import Probe, as_rows
from tunesmith.render.renderer import Renderer
from tunesmith.render.tools.base import wrapped

Verdict = Literal["equal", "differs", "refused", "typed"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result for one probe.

    `refused`: the model's own template refuses the conversation. `typed`: the conversation holds the text of
    a special token, which stays text here and becomes a control token there; reported, never counted as equal.
    """

    probe: str
    verdict: Verdict
    position: int = -1
    ours: str = ""
    theirs: str = ""


def compare_with_own(renderer: Renderer, probes: Iterable[Probe], **variables: Any) -> list[Comparison]:
    """One comparison per probe, against `tokenizer.apply_chat_template`.

    Args:
        renderer: its tokenizer must have a chat template.
        probes: conversations.
        variables: handed to the Jinja template (`enable_thinking`, `date_string`).
    """
    return [_compare(renderer, probe, variables) for probe in probes]


def _compare(renderer: Renderer, probe: Probe, variables: dict[str, Any]) -> Comparison:
    rows = as_rows(probe.question, thoughts_apart=bool(renderer.dialect.thinking_texts))
    given = {"tools": [wrapped(tool) for tool in probe.tools], **variables} if probe.tools else variables
    theirs = own_template_ids(renderer.tokenizer, rows, given)
    if theirs is None:
        return Comparison(probe.name, "refused")
    try:
        ours: Sequence[int] = renderer.prompt(probe.question, probe.tools)
    except DataError as error:
        return Comparison(probe.name, "refused", ours=error.what)
    at = first_difference(ours, theirs)
    if at is None:
        return Comparison(probe.name, "equal")
    our_side, their_side = show_difference(renderer, ours, theirs, at)
    typed = any(renderer.encoder.guard(message.content) != message.content for message in probe.question)
    return Comparison(probe.name, "typed" if typed else "differs", at, our_side, their_side)
