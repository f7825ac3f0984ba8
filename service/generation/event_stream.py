"""Server-sent events: framing, keep-alive, and the streamed response.

Source: the WHATWG HTML standard, section 9.2 (event stream format).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial

from starlette.types import Receive, Scope, Send

from protocol.events import Event, Finished, TextDelta
from service.errors import ClientDisconnected, Headers, MlxdError
from service.generation.dialect import StreamWriter
from service.generation.logprob_encoder import LogprobGate
from service.http.response_parts import PartWriter, part_sender, part_writer, send_last
from service.inflight.request import InflightRequest
from service.requestlog.record import record_of
from service.security.visibility import visible_error

logger = logging.getLogger(__name__)

OnEnd = Callable[[], Awaitable[None]]

KEEP_ALIVE = b": keep-alive\n\n"
HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would otherwise buffer the events.
    (b"x-accel-buffering", b"no"),
]


def frame(data: bytes) -> bytes:
    """One event without a name. `data` is JSON, so it contains no line break."""
    return b"data: " + data + b"\n\n"


def named_frame(name: str, data: bytes) -> bytes:
    """One event with a name. `data` is JSON, so it contains no line break."""
    return b"event: " + name.encode() + b"\n" + frame(data)


async def stream_frames(
    inflight: InflightRequest,
    writer: StreamWriter,
    on_end: OnEnd | None = None,
    *,
    begins: bool = True,
    gate: LogprobGate | None = None,
) -> AsyncIterator[bytes]:
    """The frames of a whole answer, joined by batch; `on_end` is awaited before the last one.

    Without `begins` the frames that precede the first event are left out. `gate` is for those who
    encode a part of the events themselves.

    Raises:
        MlxdError: the generation failed, or the client disconnected.
    """
    if begins and (first := writer.begin()):
        yield first
    ends: list[Finished] = []
    gate = gate or LogprobGate()
    async for batch in inflight.batches():
        ends += batch.finished
        if not batch.events:
            yield writer.keep_alive()
            continue
        if data := encode_events(inflight, writer, gate, batch.events):
            yield data
    last = writer.finish(ends)
    if on_end is not None:
        await on_end()
    yield last


def encode_events(
    inflight: InflightRequest, writer: StreamWriter, gate: LogprobGate, events: list[Event]
) -> bytes:
    """The frames of events that have arrived together."""
    return b"".join([writer.encode(inflight.index(event), gate.admit(event)) for event in events])


class EventStream:
    """An ASGI response. It ends with the answer, with an error, or when the client disconnects.

    It closes `inflight` when it ends. `on_end` is awaited before the last frames are sent, of an
    answer that is complete or has failed.
    """

    def __init__(
        self,
        inflight: InflightRequest,
        writer: StreamWriter,
        *,
        keep_alive_s: float,
        on_end: OnEnd | None = None,
    ) -> None:
        self._inflight = inflight
        self._writer = writer
        self._keep_alive_s = keep_alive_s
        self._on_end = on_end
        self._gate = LogprobGate()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._inflight:
            with self._keep_alive():
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                # A task of its own: each token would wake the coroutines of all middlewares.
                await asyncio.create_task(self._send_frames(send, scope), name="event-stream")

    async def _send_frames(self, send: Send, scope: Scope) -> None:
        record, send_part = record_of(scope), part_sender(scope, send)
        last = b""
        if (parts := part_writer(scope)) is not None:
            self._inflight.collector.shortcut = partial(self._write_deltas, parts)
        try:
            async for data in stream_frames(
                self._inflight, self._writer, self._on_end, gate=self._gate
            ):
                await send_part(data)
        except ClientDisconnected as error:
            record.fail(error)
            return
        except MlxdError as error:
            record.fail(error)
            logger.warning("stream ended with an error: %s", error.message)
            last = self._writer.fail(visible_error(error, scope))
        except Exception as error:
            record.fail(error)
            logger.exception("stream failed")
            last = self._writer.fail(error)
        if last and self._on_end is not None:
            await self._on_end()
        await send_last(send, last)

    def _write_deltas(self, parts: PartWriter, events: list[Event]) -> bool:
        """Send new text without waking the task; False where that has to wait, or ends it."""
        if not parts.is_ready:
            return False
        for event in events:
            if not isinstance(event, TextDelta):
                return False
        batch = self._inflight.count(events)
        if data := encode_events(self._inflight, self._writer, self._gate, batch.events):
            parts.write(data)
        return True

    @contextlib.contextmanager
    def _keep_alive(self) -> Iterator[None]:
        """Wake the reader every `keep_alive_s`, so that an idle stream sends a sign of life."""
        timer = asyncio.create_task(self._wake_periodically())
        try:
            yield
        finally:
            timer.cancel()

    async def _wake_periodically(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive_s)
            self._inflight.collector.wake()
