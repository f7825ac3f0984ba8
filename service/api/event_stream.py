"""Server-sent events: framing, keep-alive comments, and the streamed response.

Source: the WHATWG HTML standard, section 9.2 (event stream format).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

from starlette.types import Receive, Scope, Send

from service.errors import ClientDisconnected, MlxdError, encode_error
from service.inflight.request import InflightRequest
from service.requestlog.record import record_of
from service.security.visibility import visible_error

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would otherwise buffer the events.
    (b"x-accel-buffering", b"no"),
]


def frame(data: bytes) -> bytes:
    """One event. `data` is JSON, so it contains no line break."""
    return b"data: " + data + b"\n\n"


class EventStream:
    """An ASGI response. It ends with `[DONE]`, with an error event, or when the client disconnects.

    It closes `inflight` when it ends.
    """

    def __init__(
        self, inflight: InflightRequest, frames: AsyncIterator[bytes], *, keep_alive_s: float
    ) -> None:
        self._inflight = inflight
        self._frames = frames
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._inflight:
            with self._keep_alive():
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                await self._send_frames(send, scope)

    async def _send_frames(self, send: Send, scope: Scope) -> None:
        record = record_of(scope)
        last = DONE
        try:
            async for data in self._frames:
                await send_body(send, data or KEEP_ALIVE)
        except ClientDisconnected as error:
            record.fail(error)
            return
        except MlxdError as error:
            record.fail(error)
            logger.warning("stream ended with an error: %s", error.message)
            last = frame(encode_error(visible_error(error, scope)))
        except Exception as error:
            record.fail(error)
            logger.exception("stream failed")
            last = frame(encode_error(error))
        await send_body(send, last, more_body=False)

    @contextlib.contextmanager
    def _keep_alive(self) -> Iterator[None]:
        """Wake the reader every `keep_alive_s`, so that an idle stream sends a comment."""
        timer = asyncio.create_task(self._wake_periodically())
        try:
            yield
        finally:
            timer.cancel()

    async def _wake_periodically(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive_s)
            self._inflight.collector.wake()


async def send_body(send: Send, body: bytes, *, more_body: bool = True) -> None:
    """Send one part of the response's body."""
    await send({"type": "http.response.body", "body": body, "more_body": more_body})
