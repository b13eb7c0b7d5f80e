"""The routes, and the one handler for each way in which a request can fail."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from tunesmith import __version__
from tunesmith.errors import UserError
from tunesmith.serve.openai.chat import answer_chat
from tunesmith.serve.openai.completions import answer_completion
from tunesmith.serve.openai.document import ERROR_RESPONSES, truthful
from tunesmith.serve.openai.errors import ApiError, from_user_error, from_validation, internal
from tunesmith.serve.openai.guard import LEFT_STATUS, Guard
from tunesmith.serve.openai.metrics import CONTENT_TYPE
from tunesmith.serve.openai.requests import ChatBody, CompletionBody, EmbeddingBody, ScoreBody
from tunesmith.serve.openai.run import ClientLeft
from tunesmith.serve.openai.service import Service
from tunesmith.serve.openai.vectors import answer_embeddings, answer_score

LOG = logging.getLogger(__name__)
_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingBody,
    "/v1/score/evaluation": ScoreBody,
}
NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI can send traces and error texts to an OpenTelemetry server that the environment names; not from here."""
_STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}


def make_app(service: Service) -> ASGIApp:
    """The whole application, guarded."""
    app = FastAPI(
        title="Tunesmith",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        root_path=service.settings.root_path,
        responses=ERROR_RESPONSES,
        telemetry=NO_TELEMETRY,
    )
    _add_reading_routes(app, service)
    _add_answering_routes(app, service)
    app.add_exception_handler(ApiError, _tell)
    app.add_exception_handler(ClientLeft, _tell_nobody)
    app.add_exception_handler(RequestValidationError, _tell_form)
    app.add_exception_handler(HTTPException, _tell_status)
    app.add_exception_handler(UserError, _tell_obstacle)
    app.add_exception_handler(Exception, _tell_failure)
    truthful(app, needs_key=bool(service.settings.key))
    routes = frozenset((*_BODIES, "/v1/models", "/health", "/metrics", "/openapi.json"))
    guarded: ASGIApp = Guard(app, service.settings, service.metrics, lambda: service.is_draining, routes)
    if service.settings.cors_origins:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key"],
        )
    return guarded


def _add_reading_routes(app: FastAPI, service: Service) -> None:
    def describe(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": service.created, "owned_by": "tunesmith"}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(name) for name in service.names]}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        service.engine_model(name)
        return describe(name)

    @app.get("/health")
    async def health() -> Response:
        if service.is_draining:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.page(service.engine.figures()), media_type=CONTENT_TYPE)


def _add_answering_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request, body: ChatBody) -> Response:
        return await answer_chat(request, body, service)

    @app.post("/v1/completions")
    async def completions(request: Request, body: CompletionBody) -> Response:
        return await answer_completion(request, body, service)

    @app.post("/v1/embeddings")
    async def embeddings(request: Request, body: EmbeddingBody) -> Response:
        return await answer_embeddings(request, body, service)

    @app.post("/v1/score/evaluation")
    async def score_evaluation(request: Request, body: ScoreBody) -> Response:
        return await answer_score(request, body, service)


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _tell_obstacle(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return from_user_error(error, None).response()


async def _tell_failure(request: Request, error: Exception) -> Response:
    return internal().response()  # the exception goes on to the guard, which logs it


async def _tell_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=LEFT_STATUS)


async def _tell_form(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    model = _BODIES.get(request.url.path)
    known = list(model.model_fields) if model else []
    return from_validation(error.errors(), error.body, known).response()


async def _tell_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path[:200]}"
    headers: Mapping[str, str] = error.headers or {}
    return ApiError(error.status_code, message, code=_STATUS_CODES.get(error.status_code), headers=headers).response()
