"""Prompts: questions that the model answers anew while it is trained (stages ppo and grpo).

An example is the generation prompt, with no trained token. Beside it stand the columns of its row, which rewards look
at, and two more: `messages`, the prompt as role/content messages, and `response`, the row's own answer where it has one
and no column of that name. An own answer is never trained on.
"""

from __future__ import annotations

from typing import Any

from tunesmith.data.formats.base import Format
from tunesmith.data.kinds.base import Example, Kind, RenderedRow, Rendering
from tunesmith.data.rows import Row, RowError
from tunesmith.data.schema import DatasetEntry
from tunesmith.types import Message, Prompt


def read(row: Row, entry: DatasetEntry, reader: Format) -> Prompt:
    """The turns of a row up to its last question, and its columns. Raises: RowError as the format does."""
    turns = reader.convert(row.fields, entry, "either")
    messages, answer = turns.messages, None
    if messages[-1].role == "assistant":
        messages, answer = messages[:-1], messages[-1]
    return Prompt(messages, row.fields, answer, turns.tools, row.ref)


def render(prompt: Prompt, rendering: Rendering) -> RenderedRow:
    """One example: the tokens that inference is fed. Raises: RowError when they are more than `cutoff_len`."""
    ids = rendering.renderer.prompt(prompt.messages, prompt.tools)
    if len(ids) > rendering.cutoff_len:
        fix = f"the prompt has {len(ids)} tokens; raise cutoff_len or remove the row"
        raise RowError("", "the prompt is longer than cutoff_len", fix, needed_cutoff_len=len(ids))
    fields = {**prompt.fields, "messages": [_as_field(message) for message in prompt.messages]}
    if prompt.answer is not None:
        fields.setdefault("response", prompt.answer.content)
    return RenderedRow([Example(ids, (0.0,) * len(ids), 0, 0, len(ids), row=fields)])


def _as_field(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content}


KIND = Kind(
    holds="prompts",
    stages=("ppo", "grpo"),
    needs="a dataset of prompts: questions with or without answers, or conversations",
    read=read,
    render=render,
)
