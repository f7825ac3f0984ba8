"""One client's connection: Hypercorn's HTTP/1.1, which ends whatever the client does.

It differs from Hypercorn (0.18) in these points; for the protocol itself see `http1`:

- Hypercorn notices a disconnect only when the response ends, and never if further requests
  are already in its buffer. Here a reset and an end of file both stop the reading at once.
  A client that closes its sending half counts as disconnected.
- Hypercorn waits without limit for a client that reads nothing. Here `stalled_s` returns the
  duration of the stall, and `abort` ends the connection.
- Hypercorn handles all that has arrived at once. Here connections take `turns`.
- Hypercorn closes at once after the answer to an invalid request. If bytes are unread this
  resets the connection, and the client may lose the answer. Here it may read it first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import h11
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from service.transport.http1 import Http1
from service.transport.turns import Turns

# How long a client whose request was invalid may go on sending, so that it can read the answer.
LINGER_S = 1.0
LINGER_BYTES = 64 * 1024


class ClientStream(asyncio.StreamReaderProtocol):
    """A stream that calls `on_end` as soon as the client ends it, even while no task reads."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.on_end: Callable[[], object] | None = None
        self.ended = False
        # More is to be written than the client reads.
        self.is_full = False

    def eof_received(self) -> bool | None:
        self._end()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        # An error keeps its traceback, and that the connection. The end is all that counts here.
        super().connection_lost(None)
        self._end()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.is_full = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self.is_full = False

    def _end(self) -> None:
        self.ended = True
        if self.on_end is not None:
            self.on_end()


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
        turns: Turns,
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
        self._turns = turns
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
                    linger=self._linger,
                    writer=self,
                    app=self.app,
                    config=self.config,
                    context=self.context,
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
            self._release()

    @property
    def awaits_request(self) -> bool:
        """Whether no request is in progress that has arrived completely."""
        protocol: object = getattr(self, "protocol", None)
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

    @property
    def is_ready(self) -> bool:
        """Whether `write` can write now: the client is there, and reads."""
        return not (
            self._stream.is_full or self._stream.ended or self.writer.transport.is_closing()
        )

    def write(self, part: bytes) -> None:
        """Write bytes without a wait. They are lost if the connection has ended."""
        self._written_bytes += len(part)
        try:
            self.writer.transport.write(part)
        except (ConnectionError, RuntimeError):
            self.abort()

    async def protocol_send(self, event: Event) -> None:
        match event:
            case RawData(data):
                await self._write(data)
                return
            case Updated(idle):
                if self._stream.ended:
                    return
                self._on_idle(self, idle)
        await super().protocol_send(event)

    async def _write(self, data: bytes) -> None:
        """Write data. Hypercorn takes a lock for it, which asyncio's streams do not need."""
        self._written_bytes += len(data)
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (ConnectionError, RuntimeError):
            await self.protocol.handle(Closed())

    async def _linger(self) -> None:
        """Read and discard what the client still sends, until it ends or `LINGER_S` has passed."""
        with contextlib.suppress(OSError, TimeoutError):
            if self.writer.can_write_eof():
                self.writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                while await self.reader.read(LINGER_BYTES):
                    pass

    def _release(self) -> None:
        """Drop what refers back to this connection, so that it is freed at once.

        Else each connection is garbage that only a full collection finds, which stops all streams.
        """
        self._stream.on_end = None
        if isinstance(protocol := vars(self).pop("protocol", None), Http1):
            protocol.release()

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            data = await self.reader.read(MAX_RECV)
            await self._turns.take()
            await self.protocol.handle(RawData(data))

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
        await self._turns.take()
        await self.protocol.handle(Closed())
        await self.idle_task.stop()
