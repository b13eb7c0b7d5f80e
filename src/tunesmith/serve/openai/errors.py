"""Failures in OpenAI's shape, `{"error": {message, type, param, code}}`, with the status its clients act on.

The official clients choose an exception class by the status alone: 400 BadRequestError, 401 AuthenticationError,
403 PermissionDeniedError, 404 NotFoundError, 429 RateLimitError, 500 and above InternalServerError. They repeat a
request by themselves after 408, 409, 429 and 5xx, so what would fail again must not have one of those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

from tunesmith.errors import UserError, did_you_mean
from tunesmith.infer.engine import EngineBusyError

REFUSED_FIELDS: dict[str, str] = {
    "audio": "this server answers in text only",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "name": "chat templates have no place for a speaker's name; write it into the content",
    "prediction": "predicted outputs are not supported",
    "reasoning_effort": "a model thinks or does not: use enable_thinking",
    "suffix": "the model continues a text, it does not fill a gap",
    "verbosity": "say in the prompt how long the answer is to be",
    "web_search_options": "this server searches nothing",
    "moderation": "this server moderates nothing",
    "best_of": "use n, and choose among the answers",
    "dimensions": "embeddings have the size of the model",
    "refusal": "a refusal is text: send it as content",
}
"""Fields of OpenAI's own that may be there only when they are null, and what to do instead."""

UNSUPPORTED = "unsupported_parameter"
"""The code of a field that is known and cannot be honoured."""
_CONTENT_TYPE = re.compile(r"^messages\[\d+\]\.content\[\d+\]\.type$")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A failure that is told to the client.

    Args:
        status: of the HTTP response.
        message: one sentence or two.
        param: the field at fault, as a path: `messages[1].content`.
        code: one word for programs.
        headers: further headers of the response, as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON object of the response."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body(), self.status, self.headers)


def refused(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """A 400 for the field `param`."""
    return ApiError(400, message, param=param, code=code)


def from_user_error(error: UserError, param: str | None) -> ApiError:
    """What the engine or the renderer refuses: a full queue is 429, everything else 400 for `param`."""
    if isinstance(error, EngineBusyError):
        return ApiError(
            429,
            f"{error.what}; try again in {error.retry_after} s",
            code="engine_busy",
            headers={"Retry-After": str(error.retry_after)},
        )
    parts = [error.what, error.why]
    return ApiError(400, ". ".join(part.rstrip(".") for part in parts if part), param=param, code="invalid_value")


def internal() -> ApiError:
    """A failure of ours. It says nothing of its cause, which may hold what the client sent."""
    return ApiError(500, "the server failed to answer; its log says where", code="internal_error")


def from_validation(problems: Sequence[Mapping[str, Any]], body: Any, known: Sequence[str] = ()) -> ApiError:
    """The error of a body that does not have the form of its route.

    Args:
        problems: pydantic's list; a value that fits no member of a union has one entry per member.
        body: the body as it was sent, which tells real places from names of union members.
        known: the names of the fields that the route has, for a suggestion.
    """
    if problems[0]["type"].startswith("json_"):
        return ApiError(400, "the body is not JSON", code="invalid_json")
    places = [_real_place(problem["loc"][1:], body, problem["type"]) for problem in problems]
    deepest = max(range(len(problems)), key=lambda index: (len(places[index]), -index))
    problem, place = problems[deepest], places[deepest]
    param = _path(place)
    name = str(place[-1]) if place else ""
    if problem["type"] == "extra_forbidden":
        hint = did_you_mean(name, known) if len(place) == 1 else ""
        return refused(param, f"unknown field '{param}'. {hint}".rstrip(), "unknown_parameter")
    same_place = [problem for problem, other in zip(problems, places, strict=True) if other == place]
    if name in REFUSED_FIELDS and any(problem["type"] == "none_required" for problem in same_place):
        return refused(param, f"'{param}' is not supported: {REFUSED_FIELDS[name]}", UNSUPPORTED)
    if problem["type"] == "missing":
        return refused(param, f"'{param}' is missing", "missing_required_parameter")
    if problem["type"] == "union_tag_invalid":
        param = _path((*place, problem["ctx"]["discriminator"].strip("'")))
    if _CONTENT_TYPE.search(param):
        return refused(
            param, f"'{param}': only text parts are supported, no pictures, sound or files", "unsupported_parameter"
        )
    reasons = dict.fromkeys(problem["msg"] for problem in same_place)
    code = "invalid_type" if problem["type"].endswith("_type") else "invalid_value"
    if not place:
        return ApiError(400, "the body must be a JSON object", code="invalid_type")
    return refused(param, f"'{param}': {'; or '.join(reasons)}", code)


def _real_place(loc: Sequence[Any], body: Any, kind: str) -> tuple[Any, ...]:
    """`loc` without the names of union members that pydantic mixes in."""
    place: list[Any] = []
    here = body
    for index, step in enumerate(loc):
        is_last = index == len(loc) - 1
        has_index = isinstance(here, list) and isinstance(step, int) and step < len(here)
        if has_index or (isinstance(here, Mapping) and step in here):
            here = here[step]
        elif not (is_last and kind == "missing"):
            continue
        place.append(step)
    return tuple(place)


def _path(place: Sequence[Any]) -> str:
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text[:200]
