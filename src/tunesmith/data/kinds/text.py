"""Documents to continue pretraining on (stage pt).

A document longer than `cutoff_len` is split, not cut: each chunk after the first begins with the last token of the
chunk before as context, so that every token of the document is predicted exactly once. The start token, where the model
uses one, stands before every chunk as context, beside the text and not in place of its first token. The end token is
learned at the end of the document only, since an inner chunk does not end there.
"""

from __future__ import annotations

from tunesmith.data.formats.alpaca import question_of
from tunesmith.data.formats.base import Format
from tunesmith.data.kinds.base import Example, Kind, RenderedRow, Rendering
from tunesmith.data.rows import Row, RowError
from tunesmith.data.schema import DatasetEntry
from tunesmith.types import Text


def read(row: Row, entry: DatasetEntry, reader: Format) -> Text:
    """The document of a row. Raises: RowError when it is missing, empty or not text."""
    column = str(entry.columns.prompt)
    if column not in row.fields:
        raise RowError(column, "is missing", "give the row this field as text")
    text = question_of(row.fields, entry)
    if not text.strip():
        raise RowError(column, "is empty", "fill it or remove the row")
    return Text(text, row.ref)


def render(document: Text, rendering: Rendering) -> RenderedRow:
    """The chunks of one document, each of at most `cutoff_len` tokens."""
    renderer = rendering.renderer
    start = () if renderer.text_start_id is None else (renderer.text_start_id,)
    end = () if renderer.text_end_id is None else (renderer.text_end_id,)
    ids = renderer.text_ids(document.text) + end
    context, rest = (start, ids) if start else (ids[:1], ids[1:])
    chunks = []
    while rest:
        room = rendering.cutoff_len - len(context)
        new, rest = rest[:room], rest[room:]
        chunks.append((context, new))
        context = (*start, new[-1])[: rendering.cutoff_len - 1]
    if not chunks:
        raise RowError("", "the document is a single token, which nothing predicts", "remove the row")
    last = len(chunks) - 1
    examples = [
        _chunk(context, new, len(ids), is_last=index == last, has_end=bool(end))
        for index, (context, new) in enumerate(chunks)
    ]
    return RenderedRow(examples, num_chunks=len(chunks))


def _chunk(
    context: tuple[int, ...], new: tuple[int, ...], full_length: int, *, is_last: bool, has_end: bool
) -> Example:
    weights = (0.0,) * len(context) + (1.0,) * len(new)
    return Example(context + new, weights, int(is_last), int(is_last and has_end), full_length)


KIND = Kind(
    holds="documents without answers",
    stages=("pt",),
    needs='a dataset of documents ("columns": {"prompt": "COLUMN"}), or a .txt file, one document per line',
    read=read,
    render=render,
)
