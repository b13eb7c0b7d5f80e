"""The OpenAPI document says what is true: errors in OpenAI's shape under their statuses, and no 422."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict

_STATUSES = {
    400: "the request is wrong; `error.param` names the field",
    401: "the key is missing or wrong",
    403: "the host or origin is not allowed",
    404: "there is no such route or model",
    405: "the route or the model cannot do this",
    413: "the body is too long",
    415: "the body is not JSON",
    429: "the queue is full; Retry-After says when to come again",
    500: "a failure of the server",
    503: "the server is shutting down",
}


class ErrorDetail(BaseModel):
    """What is wrong."""

    model_config = ConfigDict(extra="forbid")
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is no success."""

    model_config = ConfigDict(extra="forbid")
    error: ErrorDetail


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": words} for status, words in _STATUSES.items()
}


def truthful(app: FastAPI, *, needs_key: bool) -> None:
    """Have the document of `app` say what the server does."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, needs_key)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, needs_key: bool) -> dict[str, Any]:
    whole = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for path in whole["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    schemas = whole["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if needs_key:
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"key": []}]
    return whole
