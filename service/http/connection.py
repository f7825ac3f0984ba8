"""One client's connection: Hypercorn's HTTP/1.1, and an end to it whatever the client does.

What Hypercorn (0.18) does otherwise, and what is done about it here:

- It waits for a client that left until a response ends, or for ever, where further
  requests are already in its buffer. Here the reading ends when the client does: both
  a reset and an end of file. A client that closes its sending half has left.
- It speaks HTTP/2 in clear to whoever asks, and leaks with it. Here it is 505, and an
  `Upgrade`, be it to HTTP/2 or to WebSocket, is ignored as RFC 9110 section 7.8 permits.
- It waits for ever for a client that takes nothing. Here `stalled_s` says how long that
  has gone on, and `abort` ends it.
- It has h11 make an event of each chunk and check it, which takes most of a token's way
  through it. Here a chunk is framed where it stands: it changes nothing in h11's state.

Requests that cannot be parsed (400, 431, 501, 505) are answered without a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11
from h11._writers import ChunkedWriter
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

VERSIONS = (b"1.0", b"1.1")
HTTP_VERSION_NOT_SUPPORTED = 505


class ClientStream(asyncio.StreamReaderProtocol):
    """A stream that tells at once when its client ends it, though nobody reads."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.on_end: Callable[[], object] | None = None
        self.ended = False

    def eof_received(self) -> bool | None:
        self._end()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._end()

    def _end(self) -> None:
        self.ended = True
        if self.on_end is not None:
            self.on_end()


class VersionNotSupported(Exception):
    """The request is of no version that is spoken here."""


class Http1(H11Protocol):
    """HTTP/1.0 and 1.1, and nothing that a client could change it to."""

    async def handle(self, event: Event) -> None:
        try:
            await super().handle(event)
        except VersionNotSupported:
            await self._send_error_response(HTTP_VERSION_NOT_SUPPORTED)
            await self.send(Closed())

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Body) and event.data and sends_chunks(self.connection):
            await self.send(RawData(data=b"%x\r\n%b\r\n" % (len(event.data), event.data)))
        else:
            await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.http_version not in VERSIONS:
            raise VersionNotSupported

    async def _create_stream(self, request: h11.Request) -> None:
        await super()._create_stream(without_upgrade(request))


def sends_chunks(connection: h11.Connection | H11WSConnection) -> bool:
    """Whether a response is being sent whose body is chunked.

    h11 (0.16) does not say which framing it chose, but has a writer of it.
    """
    return (
        isinstance(connection, h11.Connection)
        and connection.our_state is h11.SEND_BODY
        and isinstance(connection._writer, ChunkedWriter)
    )


def without_upgrade(request: h11.Request) -> h11.Request:
    """The request as if its client could do no other protocol."""
    headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
    return h11.Request(
        method=request.method,
        target=request.target,
        headers=headers,
        http_version=request.http_version,
    )


class Connection(TCPServer):
    """Serves `app` on one socket until either side ends it; await `run`."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        arrivals: ClientStream,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_idle: Callable[[Connection, bool], None],
    ) -> None:
        super().__init__(app, asyncio.get_running_loop(), config, context, {}, reader, writer)
        self._arrivals = arrivals
        self._on_idle = on_idle
        self._written_bytes = 0
        self._taken_bytes = 0
        self._taken_at = self.loop.time()

    async def run(self) -> None:
        """Serve.

        Raises:
            OSError: the connection failed in some way that needs no more than its end.
        """
        socket = self.writer.get_extra_info("socket")
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with TaskGroup(self.loop) as tasks:
                self._task_group = tasks
                self.protocol = Http1(  # type: ignore[assignment]
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState({}),
                    self.writer.get_extra_info("sslcontext") is not None,
                    client,
                    server,
                    self.protocol_send,
                )
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_to_end()
        finally:
            await self._close()
            self.abort()

    def abort(self) -> None:
        """End the connection at once; what is not yet sent is lost."""
        self.writer.transport.abort()

    def stalled_s(self) -> float:
        """How long the client has taken nothing, as far as was seen by calling this."""
        waiting_bytes = self.writer.transport.get_write_buffer_size()
        taken_bytes = self._written_bytes - waiting_bytes
        now = self.loop.time()
        if not waiting_bytes or taken_bytes != self._taken_bytes:
            self._taken_bytes, self._taken_at = taken_bytes, now
        return now - self._taken_at

    async def protocol_send(self, event: Event) -> None:
        match event:
            case RawData(data):
                self._written_bytes += len(data)
            case Updated(idle):
                if self._arrivals.ended:
                    return
                self._on_idle(self, idle)
        await super().protocol_send(event)

    async def _read_to_end(self) -> None:
        reading = asyncio.create_task(self._read_data(), name="connection-reading")
        self._arrivals.on_end = reading.cancel
        if self._arrivals.ended:
            reading.cancel()
        try:
            await asyncio.wait([reading])
        finally:
            reading.cancel()
        if not reading.cancelled():
            reading.result()
        await self.protocol.handle(Closed())
        await self.idle_task.stop()
