"""Cuts an example at `cutoff_len` tokens and keeps its accounts right.

The head is kept: an answer cut at its end still answers the question before it, while an answer without
its question teaches nothing. Behind the last trained token nothing is worth computing, so trailing
context is stripped as well. A turn that loses its end loses its stop token, and is counted so.
"""

from __future__ import annotations

from collections.abc import Collection

from tunesmith.types import RenderedExample, Span


def cut_example(example: RenderedExample, cutoff_len: int, stop_ids: Collection[int]) -> RenderedExample:
    """The example with at most `cutoff_len` tokens; the same object when it is short enough.

    Returns an example without tokens when no trained token lies within the limit.
    """
    if len(example.input_ids) <= cutoff_len:
        return example
    end = cutoff_len
    while end > 0 and not example.weights[end - 1]:
        end -= 1
    ids, weights = example.input_ids[:end], example.weights[:end]
    spans = tuple(_cut_span(span, end) for span in example.spans if span.start < end)
    answers = (span for span in spans if span.role == "assistant" and span.trained)
    trained = [span for span in answers if any(weights[span.start : span.end])]
    num_stops = sum(_has_trained_stop(span, ids, weights, stop_ids) for span in trained)
    return RenderedExample(ids, weights, spans, len(trained), num_stops, example.ref)


def _cut_span(span: Span, end: int) -> Span:
    return span if span.end <= end else Span(span.start, end, span.role, span.trained)


def _has_trained_stop(span: Span, ids: tuple[int, ...], weights: tuple[float, ...], stop_ids: Collection[int]) -> bool:
    return any(ids[position] in stop_ids and weights[position] for position in range(span.start, span.end))
