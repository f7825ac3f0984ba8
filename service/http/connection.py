"""One client's connection: Hypercorn's HTTP/1.1, which ends whatever the client does.

It differs from Hypercorn (0.18) in four points:

- Hypercorn notices a disconnect only when the response ends, and never if further requests
  are already in its buffer. Here a reset and an end of file both stop the reading at once.
  A client that closes its sending half counts as disconnected.
- Hypercorn serves HTTP/2 in clear text to any client, and leaks with it. Here it is
  a 505. An `Upgrade`, to HTTP/2 or to WebSocket, is ignored, as RFC 9110 section 7.8 permits.
- Hypercorn waits without limit for a client that reads nothing. Here `stalled_s` returns the
  duration of the stall, and `abort` ends the connection.
- Hypercorn passes each chunk through h11's events and checks, which is most of the time that
  it spends on a token. Here a chunk is framed directly: h11's state does not depend on it.

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
    """A stream that calls `on_end` as soon as the client ends it, even while no task reads."""

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
    """The request's HTTP version is not supported."""


class Http1(H11Protocol):
    """HTTP/1.0 and 1.1 only; a client cannot switch to another protocol."""

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
    """Whether the response that is being sent has a chunked body.

    h11 (0.16) does not expose the framing that it chose, but its writer's type shows it.
    """
    return (
        isinstance(connection, h11.Connection)
        and connection.our_state is h11.SEND_BODY
        and isinstance(connection._writer, ChunkedWriter)
    )


def without_upgrade(request: h11.Request) -> h11.Request:
    """A copy of the request without its `Upgrade` header."""
    headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
    return h11.Request(
        method=request.method,
        target=request.target,
        headers=headers,
        http_version=request.http_version,
    )


class Connection(TCPServer):
    """Serves `app` on one socket until either side ends the connection; await `run`.

    `on_idle` is called with the connection and whether it is idle, at each change.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: ClientStream,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_idle: Callable[[Connection, bool], None],
    ) -> None:
        super().__init__(
            app,
            asyncio.get_running_loop(),
            config,
            context,
            state={},
            reader=reader,
            writer=writer,
        )
        self._stream = stream
        self._on_idle = on_idle
        self._written_bytes = 0
        self._read_bytes = 0
        self._read_at = self.loop.time()

    async def run(self) -> None:
        """Serve until the connection ends.

        Raises:
            OSError: the connection failed; the caller needs to do nothing about it.
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
                    task_group=tasks,
                    connection_state=ConnectionState({}),
                    ssl=self.writer.get_extra_info("sslcontext") is not None,
                    client=client,
                    server=server,
                    send=self.protocol_send,
                )
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_to_end()
        finally:
            await self._close()
            self.abort()

    @property
    def awaits_request(self) -> bool:
        """Whether no request is in progress that has arrived completely."""
        protocol: object = self.protocol
        if not isinstance(protocol, Http1):
            return True
        return protocol.connection.their_state in (h11.IDLE, h11.SEND_BODY)

    def abort(self) -> None:
        """Close the connection at once; unsent data is lost."""
        self.writer.transport.abort()

    def stalled_s(self) -> float:
        """How long the client has read nothing, as seen by the calls of this method."""
        buffered_bytes = self.writer.transport.get_write_buffer_size()
        read_bytes = self._written_bytes - buffered_bytes
        now = self.loop.time()
        if not buffered_bytes or read_bytes != self._read_bytes:
            self._read_bytes, self._read_at = read_bytes, now
        return now - self._read_at

    async def protocol_send(self, event: Event) -> None:
        match event:
            case RawData(data):
                self._written_bytes += len(data)
            case Updated(idle):
                if self._stream.ended:
                    return
                self._on_idle(self, idle)
        await super().protocol_send(event)

    async def _read_to_end(self) -> None:
        reading = asyncio.create_task(self._read_data(), name="connection-reading")
        self._stream.on_end = reading.cancel
        if self._stream.ended:
            reading.cancel()
        try:
            await asyncio.wait([reading])
        finally:
            reading.cancel()
        if not reading.cancelled():
            reading.result()
        await self.protocol.handle(Closed())
        await self.idle_task.stop()
