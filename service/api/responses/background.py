"""Responses in the background: made without their client, replayed, and cancelled.

A response is made in a task of its own. The request that began it ends with it, so that it
holds its key's place and is logged as one request until then; its client may leave at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.responses.output.items import Output
from service.api.responses.output.stream import ResponseWriter
from service.api.responses.shapes.response import Response
from service.api.responses.stored import store_response
from service.errors import ClientDisconnected, InvalidRequest, MlxdError, StoreUnavailable
from service.generation.event_stream import HEADERS, named_frame, stream_frames
from service.http.json_io import json_response
from service.http.response_parts import part_sender, send_last
from service.inflight.request import InflightRequest
from service.requestlog.record import RequestRecord
from service.store.open_response import OpenResponse
from service.store.replay_log import ReplayLog

logger = logging.getLogger(__name__)

FRAME_END = b"\n\n"


@dataclass(slots=True)
class BackgroundRun:
    """A response that is being made in the background."""

    opened: OpenResponse
    on_end: Callable[[ResponseWriter], Awaitable[None]]
    inflight: InflightRequest
    base: Response
    output: Output
    writer: ResponseWriter
    record: RequestRecord
    is_streamed: bool
    is_cancelled: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def queued(self) -> Response:
        """The response before it has begun."""
        return msgspec.structs.replace(self.base, status="queued")

    async def cancel(self) -> None:
        """End the response, and wait until it has ended."""
        self.is_cancelled = True
        self.inflight.abandon()
        await self.ended.wait()

    async def run(self) -> None:
        """Make the response. It is stored with whatever it ends with."""
        try:
            async with self.opened, self.inflight:
                await self._run()
        except StoreUnavailable as error:
            logger.error("response %s is not stored: %s", self.base.id, error.message)
        finally:
            self.ended.set()

    async def _run(self) -> None:
        try:
            self._log(self.writer.queue())
            await self.inflight.start()
            await self.opened.update("in_progress", store_response(self.base))
            self._log(self.writer.keep_alive())
            async for data in stream_frames(self.inflight, self.writer, self._store, begins=False):
                self._log(data)
        except ClientDisconnected:
            await self._end_cancelled()
        except MlxdError as error:
            self.record.fail(error)
            logger.warning("response %s failed: %s", self.base.id, error.message)
            await self._end(self.writer.fail(error))
        except Exception as error:
            self.record.fail(error)
            logger.exception("response %s failed", self.base.id)
            await self._end(self.writer.fail(error))

    async def _end_cancelled(self) -> None:
        output = self.output.so_far()
        response = msgspec.structs.replace(self.base, status="cancelled", output=output)
        await self._end(self.writer.cancel(response))

    async def _end(self, last: bytes) -> None:
        self._log(last)
        await self._store()

    async def _store(self) -> None:
        if self.writer.ended is not None:
            await self.on_end(self.writer)

    def _log(self, frames: bytes) -> None:
        if self.is_streamed:
            self.opened.log.append(*[f + FRAME_END for f in frames.split(FRAME_END)[:-1]])


class BackgroundRuns:
    """The responses that are being made in the background, by id."""

    def __init__(self) -> None:
        self._runs: dict[str, BackgroundRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, run: BackgroundRun) -> asyncio.Task[None]:
        """Make the response in a task that ends with it."""
        id = run.base.id
        self._runs[id] = run
        task = asyncio.create_task(run.run(), name="background-response")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._remove(id, done))
        return task

    def find(self, id: str) -> BackgroundRun | None:
        """The response with this id, while it is made."""
        return self._runs.get(id)

    def _remove(self, id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._runs.pop(id, None)


class BackgroundAnswer:
    """An ASGI response: the response as it waits or its events, then its request goes on."""

    def __init__(
        self, http_request: Request, run: BackgroundRun, runs: BackgroundRuns, keep_alive_s: float
    ) -> None:
        self._http_request = http_request
        self._run = run
        self._runs = runs
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        log = self._run.opened.log if self._run.is_streamed else None
        task = self._runs.start(self._run)
        if log is not None:
            stream = ReplayStream(self._http_request, log, -1, self._run, self._keep_alive_s)
            await stream(scope, receive, send)
        else:
            await json_response(self._run.queued)(scope, receive, send)
        await asyncio.shield(task)


class ReplayStream:
    """An ASGI response: the events of a background response after a number, then new ones."""

    def __init__(
        self,
        http_request: Request,
        log: ReplayLog,
        starting_after: int,
        run: BackgroundRun | None,
        keep_alive_s: float,
    ) -> None:
        self._reader = http_request.state.request_reader
        self._log = log
        self._starting_after = starting_after
        self._run = run
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        sending = asyncio.create_task(self._send(scope, send))
        waking = asyncio.create_task(self._wake_periodically())
        self._reader.on_disconnect(sending.cancel)
        try:
            await asyncio.wait([sending])
            if not sending.cancelled():
                sending.result()
        finally:
            sending.cancel()
            waking.cancel()

    async def _send(self, scope: Scope, send: Send) -> None:
        send_part = part_sender(scope, send)
        try:
            async for event in self._log.read(self._starting_after):
                await send_part(event)
            last = b""
        except InvalidRequest as error:
            # A client that reads too slowly asks again, from the number after its last one.
            last = named_frame("error", encode_lost(error))
        await send_last(send, last)

    async def _wake_periodically(self) -> None:
        """Have an idle response send a sign of life, which is an event of its own."""
        with contextlib.suppress(asyncio.CancelledError):
            while self._run is not None and not self._run.ended.is_set():
                await asyncio.sleep(self._keep_alive_s)
                self._run.inflight.collector.wake()


def encode_lost(error: InvalidRequest) -> bytes:
    """The last event of a reader whose next one is no longer kept; it has no number."""
    fields = {"code": error.code, "message": error.message, "param": error.param}
    return msgspec.json.encode({"type": "error", **fields})
