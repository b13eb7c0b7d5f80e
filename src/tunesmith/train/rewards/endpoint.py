"""Rewards from a server: one POST with the texts, one answer with the scores.

Request `{"model": "model", "messages": ["full text", ...]}`, each text a prompt and its answer decoded with every
special token; answer `{"scores": [0.3, ...]}`, in the same order. The server may be any program; only http and https
are spoken, redirects are not followed, and nothing but the texts leaves the machine.
A server that is starting or busy is asked again (connection refused, timeout, 429, 5xx); anything else is reported.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tunesmith.errors import ConfigError, TrainingError
from tunesmith.train.rewards.sample import Sample, checked_scores, shorten
from tunesmith.types import RowRef

PAUSES_S = (1.0, 2.0, 4.0)
"""Waits between the tries: four tries in all."""
MAX_ANSWER_BYTES = 1 << 26


class EndpointReward:
    """Scores from an HTTP endpoint.

    Args:
        url: where to POST; http or https.
        timeout_s: how long one request may take.
        pauses_s: waits between tries; one try more than there are waits.

    Raises:
        ConfigError: the address is not one of http or https.
    """

    def __init__(self, url: str, timeout_s: float, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._parts = _checked_url(url)
        self.name = f"{self._parts.scheme}://{self._parts.netloc}{self._parts.path}"
        self._url, self.timeout_s, self._pauses_s = url, timeout_s, tuple(pauses_s)
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if _is_loopback(self._parts.hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))  # a proxy could not reach this machine's own address
        self._opener = urllib.request.build_opener(*handlers)

    def check_row(self, fields: Mapping[str, Any], ref: RowRef) -> None:
        """Reads nothing of a row."""

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """One score per sample. Raises: TrainingError when the server does not give them."""
        if not samples:
            return []
        body = json.dumps({"model": "model", "messages": [sample.full_text for sample in samples]}).encode()
        return self._scores(self._post(body), samples)

    def _post(self, body: bytes) -> bytes:
        request = urllib.request.Request(self._url, data=body, headers={"Content-Type": "application/json"})
        for pause_s in (*self._pauses_s, None):
            try:
                with self._opener.open(request, timeout=self.timeout_s) as answer:
                    return answer.read(MAX_ANSWER_BYTES + 1)
            except urllib.error.HTTPError as err:
                with err:
                    problem = f"{err.code} {err.reason}: {shorten(err.read(2000).decode('utf-8', 'replace'), 120)}"
                if err.code != 429 and err.code < 500:
                    raise self._failure(problem) from err
            except (OSError, http.client.HTTPException) as err:
                reason = getattr(err, "reason", err)
                waited = isinstance(reason, TimeoutError)
                problem = f"no answer within {self.timeout_s:g} s" if waited else f"{type(reason).__name__}: {reason}"
            if pause_s is not None:
                time.sleep(pause_s)
        tries = len(self._pauses_s) + 1
        raise self._failure(f"{problem} ({tries} {'try' if tries == 1 else 'tries'})")

    def _scores(self, raw: bytes, samples: Sequence[Sample]) -> list[float]:
        if len(raw) > MAX_ANSWER_BYTES:
            raise self._failure(f"its answer is longer than {MAX_ANSWER_BYTES >> 20} MiB")
        try:
            answer: Any = json.loads(raw)
        except (ValueError, RecursionError):
            raise self._failure(
                f"its answer is no JSON: {shorten(raw[:400].decode('utf-8', 'replace'), 120)}"
            ) from None
        if not isinstance(answer, dict) or "scores" not in answer:
            raise self._failure(f'its answer has no "scores": {shorten(json.dumps(answer), 120)}')
        return checked_scores(answer["scores"], samples, f"the reward server {self.name}")

    def _failure(self, problem: str) -> TrainingError:
        return TrainingError(
            f"the reward server {self.name} gave no scores: {problem}",
            fix='it is sent {"model": "model", "messages": [texts]} and must answer {"scores": [numbers]}; '
            "start it, then the same command again: the run goes on from its last checkpoint",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other: the texts go where the user said and nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """None: the redirect is reported as an HTTPError."""


def _checked_url(url: str) -> Any:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as err:
        raise ConfigError(f"{url} is no address: {err}", where="reward_model") from err
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"reward_model: {url} is no address that rewards can be asked from",
            why="reward_model_type is api",
            fix="give a full address, such as http://localhost:8000/score",
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the address in reward_model holds a user name or password", fix="remove it; it is not sent")
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
