"""What all routes share: the engine under its public names, the renderer, who may come in, and one rendering thread.

Admission: `max_concurrent` requests are answered at once, `max_waiting` more wait for their turn, the next is told to
come again (429). Without `max_concurrent` the engine's own queue decides, and only the sum is bounded here.
Rendering and submitting happen in one thread beside the event loop, so that a long prompt does not hold up the others'
tokens, and no tokenizer is used by two threads at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from tunesmith.errors import ModelError
from tunesmith.infer.engine import Engine, SamplingParams, num_new_tokens
from tunesmith.render import Renderer
from tunesmith.serve.openai.errors import UNSUPPORTED, ApiError, refused
from tunesmith.serve.openai.metrics import Metrics
from tunesmith.serve.openai.run import ClientLeft, Run
from tunesmith.serve.openai.settings import Settings
from tunesmith.serve.openai.token_bytes import TokenBytes

T = TypeVar("T")
ENGINE_BOUND = 4096
"""Requests in flight, waiting ones included, where the engine's own queue is what decides."""
RETRY_AFTER_S = 5


class Service:
    """One engine being served.

    Args:
        defaults: the configuration's sampling settings, with the renderer's stop tokens.
        renderer_for: the renderer with `enable_thinking` set to what a request says.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        defaults: SamplingParams,
        settings: Settings,
        renderer_for: Callable[[bool], Renderer] | None = None,
    ) -> None:
        self.engine, self.renderer, self.defaults, self.settings = engine, renderer, defaults, settings
        self.names = public_names(engine.models, settings.model_name)
        self.created = int(time.time())
        self.metrics = Metrics()
        self.is_draining = False
        self.vocabulary_size = len(renderer.tokenizer)
        self.token_bytes = TokenBytes(renderer.tokenizer)
        self._renderer_for = renderer_for
        self._thinking: dict[bool, Renderer] = {}
        self._worker = ThreadPoolExecutor(1, "render")
        self._num_waiting = 0
        self._turns = asyncio.Semaphore(settings.max_concurrent or ENGINE_BOUND)

    @property
    def num_open(self) -> int:
        """Requests being answered or waiting for their turn."""
        return self.metrics.num_in_flight + self._num_waiting

    def engine_model(self, name: str) -> str:
        """The engine's name of a model. Raises: ApiError 404 for a name that is not served."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise ApiError(
                404, f"there is no model '{name[:200]}' here; there is: {known}", param="model", code="model_not_found"
            )
        return self.names[name]

    def renderer_of(self, enable_thinking: bool | None) -> Renderer:
        """The renderer that thinks as the request says. Raises: ApiError where that cannot be chosen."""
        if enable_thinking is None:
            return self.renderer
        if self._renderer_for is None or self.renderer.dialect.shape.thinking is None:
            raise refused("enable_thinking", "the template of this model knows no thoughts", UNSUPPORTED)
        if enable_thinking not in self._thinking:
            self._thinking[enable_thinking] = self._renderer_for(enable_thinking)
        return self._thinking[enable_thinking]

    def check_room(self, prompt_ids: Sequence[int], params: SamplingParams, param: str) -> None:
        """Raises: ApiError when a prompt is empty or leaves no room for an answer."""
        try:
            num_new_tokens(len(prompt_ids), params, self.engine.context_length)
        except ModelError as error:
            code = "context_length_exceeded" if prompt_ids else "invalid_value"
            raise ApiError(400, error.what, param=param, code=code) from None

    async def in_worker(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run `work` in the rendering thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    @contextmanager
    def _waiting(self) -> Generator[None, None, None]:
        """Stand in the queue. Raises: ApiError 429 when it is full."""
        if self._turns.locked() and self._num_waiting >= self.settings.max_waiting:
            raise ApiError(
                429,
                f"{self._num_waiting} requests are waiting already; try again in {RETRY_AFTER_S} s",
                code="engine_busy",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self._num_waiting += 1
        try:
            yield
        finally:
            self._num_waiting -= 1

    async def take_turn(self, run: Run) -> Turn:
        """Wait until a request may be answered. Raises: ApiError 429; ClientLeft while waiting."""
        with self._waiting():
            acquired = asyncio.ensure_future(self._turns.acquire())
            left = asyncio.ensure_future(run.left.wait())
            await asyncio.wait((acquired, left), return_when=asyncio.FIRST_COMPLETED)
            left.cancel()
            if not acquired.done():
                acquired.cancel()
                raise ClientLeft
        return Turn(self._turns, self.metrics, run)

    def close(self) -> None:
        """End the rendering thread and the engine."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        self.engine.close()


class Turn:
    """The right to be answered, until `end`."""

    def __init__(self, turns: asyncio.Semaphore, metrics: Metrics, run: Run) -> None:
        self._turns, self._metrics, self._run, self._is_open = turns, metrics, run, True
        metrics.num_in_flight += 1

    def end(self) -> None:
        """Give everything back. Idempotent."""
        self._run.end()
        if self._is_open:
            self._is_open = False
            self._turns.release()
            self._metrics.num_in_flight -= 1


def public_names(models: Sequence[str], first: str) -> dict[str, str]:
    """Public name -> the engine's name; `first`, where given, renames the first model."""
    names = {first or models[0]: models[0]}
    return names | {model: model for model in models[1:] if model not in names}
