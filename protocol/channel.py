"""One end of the pipe between service and worker: sends and receives typed messages.

The framing is that of `multiprocessing.connection`. The worker blocks in `recv` on a thread;
the service calls `take` when its event loop reports data. `send` writes a message at once if
the pipe has room for it, which avoids a switch to another thread; else the writer thread
writes it later. Any error (end of file, a truncated or oversized frame, a message of unknown
type) raises `Closed`: the other process is then unusable, and its owner replaces it.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import struct
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

import msgspec

from protocol.encoding import encode
from protocol.messages import ToService, ToWorker

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
READ_BYTES = 64 * 1024
# A frame begins with its length. MAX_MESSAGE_BYTES is below the size that needs a longer header.
HEADER = struct.Struct("!i")
# Family, type and protocol of the pipe, which is a pair of sockets.
PIPE_SOCKET = (socket.AF_UNIX, socket.SOCK_STREAM, 0)

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")


class Closed(Exception):
    """The other end is closed, or what it sent cannot be decoded."""


class Channel(Generic[Incoming, Outgoing]):
    """Messages over one duplex connection; one thread may read while others send."""

    def __init__(self, connection: Connection, decoder: msgspec.msgpack.Decoder[Incoming]) -> None:
        self._connection = connection
        self._decoder = decoder
        self._incomplete = bytearray()
        self._outbox: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        # Keeps messages in order: held while a message is written or queued.
        self._order = threading.Lock()
        # How many messages are in the outbox or being written by the writer thread.
        self._queued = 0
        self._writer = threading.Thread(target=self._write, name="channel-writer", daemon=True)
        self._writer.start()

    def send(self, message: Outgoing) -> None:
        """Write `message`, or queue what does not fit. Never blocks; lost if the pipe is closed."""
        body = encode(message)
        frame = memoryview(HEADER.pack(len(body)) + body)
        with self._order:
            if not self._queued:
                frame = frame[self._write_without_blocking(frame) :]
            if frame:
                self._queued += 1
                self._outbox.put(frame)

    def fileno(self) -> int:
        """The descriptor that an event loop watches, to call `take` when it is readable."""
        return self._connection.fileno()

    def recv(self) -> Incoming:
        """Wait for the next message. A channel is read by either `recv` or `take`, never both.

        Raises:
            Closed: the connection ended, or carried something that is not a message.
        """
        try:
            return self._decoder.decode(self._connection.recv_bytes(MAX_MESSAGE_BYTES))
        except (EOFError, OSError, MemoryError, msgspec.MsgspecError, UnicodeError) as error:
            raise Closed(repr(error)) from error

    def take(self) -> Iterator[Incoming]:
        """Read once and return the complete messages; an incomplete one is kept for later.

        Call it only when the descriptor is readable: otherwise it may block.

        Raises:
            Closed: the connection ended, or carried something that is not a message.
        """
        self._incomplete += self._read_available()
        start = 0
        try:
            while (end := self._end_of_message(start)) is not None:
                body = self._incomplete[start + HEADER.size : end]
                start = end
                yield self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise Closed(repr(error)) from error
        finally:
            del self._incomplete[:start]

    def flush(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` until all queued messages are written, and stop the writer."""
        self._outbox.put(None)
        self._writer.join(timeout_s)

    def close(self) -> None:
        """Close both directions. It does not wake a thread that is blocked in `recv`."""
        self._outbox.put(None)
        self._connection.close()

    def _end_of_message(self, start: int) -> int | None:
        """The end of the message at `start` in the buffer; None if it is incomplete."""
        if len(self._incomplete) < start + HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._incomplete, start)
        if not 0 <= length <= MAX_MESSAGE_BYTES:
            raise Closed(f"a message of {length} bytes")
        end: int = start + HEADER.size + length
        return end if end <= len(self._incomplete) else None

    def _read_available(self) -> bytes:
        try:
            data = os.read(self._connection.fileno(), READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise Closed(repr(error)) from error
        if not data:
            raise Closed("end of file")
        return data

    def _write_without_blocking(self, frame: memoryview) -> int:
        """Write what the pipe has room for; returns how many bytes were written."""
        try:
            # The pipe is a pair of sockets; only a socket's `send` takes MSG_DONTWAIT.
            pipe = socket.socket(*PIPE_SOCKET, self._connection.fileno())
        except OSError:
            return 0
        try:
            return pipe.send(frame, socket.MSG_DONTWAIT)
        except OSError:
            # The pipe is full or broken; the writer thread finds out which.
            return 0
        finally:
            pipe.detach()

    def _wait_for_room(self) -> None:
        """Wait until the pipe is writable: if uvloop made it non-blocking, `write` does not."""
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLOUT)
        poll.poll()

    def _write(self) -> None:
        while (frame := self._outbox.get()) is not None:
            try:
                while frame:
                    self._wait_for_room()
                    frame = frame[os.write(self._connection.fileno(), frame) :]
            except OSError:
                return
            with self._order:
                self._queued -= 1


def worker_end(connection: Connection) -> Channel[ToWorker, ToService]:
    """The worker's end of the channel."""
    return Channel(connection, msgspec.msgpack.Decoder(ToWorker))


def service_end(connection: Connection) -> Channel[ToService, ToWorker]:
    """The service's end of the channel."""
    return Channel(connection, msgspec.msgpack.Decoder(ToService))
