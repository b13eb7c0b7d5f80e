"""POST /v1/embeddings and POST /v1/score/evaluation: numbers instead of words, where the engine can make them.

An engine offers `embed(ids, model) -> list[float]` or `reward(ids, model) -> float`, or it does not; then the route
refuses. Both run one text after the other beside the event loop; nothing is cut, a text that is too long is refused.
"""

from __future__ import annotations

import base64
import struct
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tunesmith.errors import UserError
from tunesmith.serve.openai.answering import Answering, usage
from tunesmith.serve.openai.errors import ApiError, from_user_error, refused
from tunesmith.serve.openai.prompts import token_lists
from tunesmith.serve.openai.requests import EmbeddingBody, ScoreBody
from tunesmith.serve.openai.run import ClientLeft
from tunesmith.serve.openai.service import Service

Compute = Callable[[Sequence[int], str], Any]


async def answer_embeddings(request: Request, body: EmbeddingBody, service: Service) -> Response:
    """One vector per text. Raises: ApiError 400 when the engine makes none."""
    model = service.engine_model(body.model)
    embed = getattr(service.engine, "embed", None)
    if embed is None:
        raise ApiError(400, "this engine makes no embeddings", code="unsupported_operation")
    answering = await Answering.begin(request, service)
    try:
        prompts = await service.in_worker(token_lists, body.input, service.renderer.tokenizer, "input")
        vectors = await _compute(embed, prompts, model, "input", answering, service)
        used = usage(answering.record)
    finally:
        answering.end()
    encoded = [_encode(vector, body.encoding_format) for vector in vectors]
    return JSONResponse(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(encoded)],
            "model": body.model,
            "usage": {"prompt_tokens": used["prompt_tokens"], "total_tokens": used["total_tokens"]},
        }
    )


async def answer_score(request: Request, body: ScoreBody, service: Service) -> Response:
    """One score per formatted text. Raises: ApiError 405 when the model is no reward model."""
    model = service.engine_model(body.model)
    reward = getattr(service.engine, "reward", None)
    if reward is None:
        raise ApiError(405, "this model gives no scores: it is no reward model", code="unsupported_operation")
    answering = await Answering.begin(request, service)
    try:
        texts = await service.in_worker(_formatted_ids, body, service)
        scores = await _compute(reward, texts, model, "messages", answering, service)
    finally:
        answering.end()
    return JSONResponse(
        {"id": f"scoreval-{uuid.uuid4().hex}", "object": "score.evaluation", "model": body.model, "scores": scores}
    )


def _formatted_ids(body: ScoreBody, service: Service) -> list[list[int]]:
    """Token ids of texts that are written out already: nothing is put in front."""
    tokenizer = service.renderer.tokenizer
    texts = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in body.messages]
    limit = min(body.max_length or service.engine.context_length, service.engine.context_length)
    for index, ids in enumerate(texts):
        if not 1 <= len(ids) <= limit:
            raise refused(f"messages[{index}]", f"the text has {len(ids)} tokens, allowed are 1 to {limit}")
    return texts


async def _compute(
    compute: Compute, texts: Sequence[Sequence[int]], model: str, param: str, answering: Answering, service: Service
) -> list[Any]:
    """The numbers of each text, one after the other; a client that leaves ends it between two texts."""
    results = []
    for ids in texts:
        if answering.run.left.is_set():
            raise ClientLeft
        answering.record.prompt_tokens += len(ids)
        try:
            results.append(await service.in_worker(compute, ids, model))
        except UserError as error:
            raise from_user_error(error, param) from None
    return results


def _encode(vector: Sequence[float], form: str | None) -> list[float] | str:
    if form != "base64":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
