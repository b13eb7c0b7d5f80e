"""Counts and times of the server, in the text format that Prometheus reads (version 0.0.4).

Labels are routes and statuses, both from short lists, so that no client can make the page grow.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence

from tunesmith.serve.openai.log import Record

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Histogram:
    """How many values lie at or below each bound."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect.bisect_left(self.bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        """Its lines on the page."""
        lines, total = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """All counts of one server; used from the event loop only."""

    def __init__(self) -> None:
        self.num_in_flight = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[str] = Counter()
        self._num_left = 0
        self._duration = Histogram()
        self._first_token = Histogram()

    def observe(self, route: str, status: int, seconds: float, record: Record) -> None:
        """Count a request that has ended."""
        self._requests[route, status] += 1
        self._tokens["prompt"] += record.prompt_tokens
        self._tokens["completion"] += record.completion_tokens
        self._num_left += record.client_left
        if record.prompt_tokens:
            self._duration.observe(seconds)
        if record.first_token_s is not None:
            self._first_token.observe(record.first_token_s)

    def page(self, engine: Mapping[str, float]) -> str:
        """The page; `engine` are the engine's own figures."""
        requests = [
            f'tunesmith_requests_total{{route="{route}",status="{status}"}} {count}'
            for (route, status), count in sorted(self._requests.items())
        ]
        sections = [
            ("requests_total", "counter", "requests that have ended", requests),
            ("requests_in_flight", "gauge", "requests being answered", None),
            ("clients_left_total", "counter", "clients that left before their answer was whole", None),
            ("prompt_tokens_total", "counter", "tokens of prompts", None),
            ("completion_tokens_total", "counter", "tokens generated", None),
            ("answer_seconds", "histogram", "seconds of a request with a prompt", self._duration),
            ("first_token_seconds", "histogram", "seconds until the first token", self._first_token),
        ]
        plain = {
            "requests_in_flight": self.num_in_flight,
            "clients_left_total": self._num_left,
            "prompt_tokens_total": self._tokens["prompt"],
            "completion_tokens_total": self._tokens["completion"],
        }
        lines: list[str] = []
        for short, kind, words, content in sections:
            name = f"tunesmith_{short}"
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
            if isinstance(content, Histogram):
                lines += content.lines(name)
            else:
                lines += content if content is not None else [f"{name} {plain[short]}"]
        for figure, value in sorted(engine.items()):
            lines += [f"# TYPE tunesmith_engine_{figure} untyped", f"tunesmith_engine_{figure} {value:g}"]
        return "\n".join(lines) + "\n"
