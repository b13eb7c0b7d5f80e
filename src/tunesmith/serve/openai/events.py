"""Server-sent events: one `data:` line of JSON each, `[DONE]` once at the end, an error as an event of its own.

The JSON is UTF-8 text, not escapes, so that people can read what curl prints; only the three characters beyond ASCII
that some line readers take for line ends (U+0085, U+2028, U+2029) are escaped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tunesmith.errors import UserError
from tunesmith.serve.openai.errors import ApiError, from_user_error, internal
from tunesmith.serve.openai.log import log_failure
from tunesmith.serve.openai.run import ClientLeft

DONE = b"data: [DONE]\n\n"
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
LOG = logging.getLogger(__name__)


def encode_event(content: Mapping[str, Any]) -> bytes:
    """One event."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
    return f"data: {text}\n\n".encode()


class EventStream(Response):
    """A response that sends each of `contents` as an event when it comes.

    Args:
        end: called once when nothing more will be sent, whatever the reason.
        left: called when the client has left before the end.
    """

    media_type = "text/event-stream"

    def __init__(
        self, contents: AsyncGenerator[Mapping[str, Any], None], end: Callable[[], None], left: Callable[[], None]
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._contents, self._end, self._left = contents, end, left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events (ASGI)."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._encoded():
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._end()

    async def _encoded(self) -> AsyncGenerator[bytes, None]:
        """All events. What goes wrong now can no longer be a status: it becomes the last event, without [DONE]."""
        try:
            async for content in self._contents:
                yield encode_event(content)
            yield DONE
        except ClientLeft:
            self._left()
        except ApiError as error:
            yield encode_event(error.body())
        except UserError as error:
            yield encode_event(from_user_error(error, None).body())
        except Exception as error:
            log_failure(LOG, error)
            yield encode_event(internal().body())
