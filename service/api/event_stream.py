"""Server-sent events: framing, keep-alive, and the response that owns a generation.

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
from service.requestlog.record import RequestRecord, record_of

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Nginx would otherwise collect the events before it passes them on.
    (b"x-accel-buffering", b"no"),
]


def frame(data: bytes) -> bytes:
    """One event. `data` is JSON, so it holds no line break."""
    return b"data: " + data + b"\n\n"


class EventStream:
    """An ASGI response. It ends in `[DONE]`, in an error event, or with the client's leaving."""

    def __init__(
        self, generation: InflightRequest, frames: AsyncIterator[bytes], *, keep_alive_s: float
    ) -> None:
        self._generation = generation
        self._frames = frames
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._generation:
            with self._signs_of_life():
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                await self._send_frames(send, record_of(scope))

    async def _send_frames(self, send: Send, record: RequestRecord) -> None:
        last = DONE
        try:
            async for data in self._frames:
                await send_body(send, data or KEEP_ALIVE)
        except ClientDisconnected as error:
            record.fail(error)
            return
        except MlxdError as error:
            record.fail(error)
            logger.warning("a stream ended with an error: %s", error.message)
            last = frame(encode_error(error))
        except Exception as error:
            record.fail(error)
            logger.exception("a stream failed")
            last = frame(encode_error(error))
        await send_body(send, last, more_body=False)

    @contextlib.contextmanager
    def _signs_of_life(self) -> Iterator[None]:
        """Wake the reader every `keep_alive_s`: a quiet stream then sends a comment."""
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive_s)
            self._generation.collector.wake()


async def send_body(send: Send, body: bytes, *, more_body: bool = True) -> None:
    """One part of the response's body."""
    await send({"type": "http.response.body", "body": body, "more_body": more_body})
