"""One end of the pipe between service and worker: sends and receives typed messages.

The framing is that of `multiprocessing.connection`. The worker blocks in `recv` on a thread;
the service calls `take` when its event loop reports data. `send` writes a message at once if
the pipe has room for it, which avoids a switch to another thread; else the writer thread
writes it later. `withdraw` takes back what it has not begun. Any error (end of file, a truncated
or oversized frame, a message of unknown type) raises `Closed`: the other process is then
unusable, and its owner replaces it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Generic, NamedTuple, TypeVar

import msgspec

from protocol.encoding import encode
from protocol.messages import ToService, ToWorker

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
READ_BYTES = 64 * 1024
# A larger message is not copied to put its header in front of it.
JOINED_BYTES = 64 * 1024
# A frame begins with its length. MAX_MESSAGE_BYTES is below the size that needs a longer header.
HEADER = struct.Struct("!i")
# Family, type and protocol of the pipe, which is a pair of sockets.
PIPE_SOCKET = (socket.AF_UNIX, socket.SOCK_STREAM, 0)

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")


class Closed(Exception):
    """The other end is closed, or what it sent cannot be decoded."""


class Queued(NamedTuple, Generic[Outgoing]):
    """A message that waits to be written; None once a part of it is."""

    message: Outgoing | None
    parts: list[memoryview]


class Channel(Generic[Incoming, Outgoing]):
    """Messages over one duplex connection; one thread may read while others send."""

    def __init__(self, connection: Connection, decoder: msgspec.msgpack.Decoder[Incoming]) -> None:
        self._connection = connection
        self._decoder = decoder
        self._incomplete = bytearray()
        self._outbox: deque[Queued[Outgoing]] = deque()
        # Keeps messages in order: held while a message is written at once or queued.
        self._order = threading.Condition(threading.Lock())
        # The writer thread writes a message that is no longer in the outbox.
        self._is_writing = False
        # The writer thread ends once the outbox is empty.
        self._is_ending = False
        self._is_broken = False
        self._writer = threading.Thread(target=self._write, name="channel-writer", daemon=True)
        self._writer.start()

    def send(self, message: Outgoing) -> None:
        """Write `message`, or queue what does not fit. Never blocks; lost if the pipe is closed."""
        parts = parts_of(encode(message))
        with self._order:
            if self._is_broken:
                return
            has_begun = False
            if not self._outbox and not self._is_writing:
                has_begun = bool(written := self._write_without_blocking(parts))
                parts = skip(parts, written)
            if parts:
                self._outbox.append(Queued(None if has_begun else message, parts))
                self._order.notify()

    def withdraw(self, is_unwanted: Callable[[Outgoing], bool]) -> None:
        """Drop the queued messages of which this is so, unless a part of them is written."""
        with self._order:
            self._outbox = deque(
                queued
                for queued in self._outbox
                if queued.message is None or not is_unwanted(queued.message)
            )

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
        received: bytes | bytearray = self._read_available()
        if self._incomplete:
            self._incomplete += received
            received = self._incomplete
        start, size = 0, len(received)
        try:
            while size - start >= HEADER.size:
                (length,) = HEADER.unpack_from(received, start)
                if not 0 <= length <= MAX_MESSAGE_BYTES:
                    raise Closed(f"a message of {length} bytes")
                end = start + HEADER.size + length
                if end > size:
                    break
                body = received[start + HEADER.size : end]
                start = end
                yield self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise Closed(repr(error)) from error
        finally:
            # A long message arrives in many parts: what there is of it is not copied each time.
            if received is self._incomplete:
                del self._incomplete[:start]
            elif start < size:
                self._incomplete = bytearray(received[start:])

    def flush(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` until all queued messages are written, and stop the writer."""
        self._end_writer()
        self._writer.join(timeout_s)

    def close(self) -> None:
        """Close both directions. It does not wake a thread that is blocked in `recv`."""
        self._end_writer()
        self._connection.close()

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

    def _write_without_blocking(self, parts: Sequence[memoryview]) -> int:
        """Write what the pipe has room for; returns how many bytes were written."""
        try:
            # The pipe is a pair of sockets; only a socket's `sendmsg` takes MSG_DONTWAIT.
            pipe = socket.socket(*PIPE_SOCKET, self._connection.fileno())
        except OSError:
            return 0
        try:
            return pipe.sendmsg(parts, (), socket.MSG_DONTWAIT)
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
        """Write the queued messages until the writer is to end, or the pipe is broken."""
        while (parts := self._take_parts()) is not None:
            is_written = self._write_parts(parts)
            # What is written must not stay in memory until the next message comes.
            parts.clear()
            with self._order:
                self._is_writing = False
                if not is_written:
                    self._is_broken = True
                    self._outbox.clear()
                    return

    def _take_parts(self) -> list[memoryview] | None:
        """Wait for the next message to write; None at the end."""
        with self._order:
            self._order.wait_for(lambda: self._outbox or self._is_ending)
            if not self._outbox:
                return None
            self._is_writing = True
            return self._outbox.popleft().parts

    def _write_parts(self, parts: Sequence[memoryview]) -> bool:
        """Write a message; False if the pipe is broken."""
        try:
            for part in parts:
                rest = part
                while rest:
                    self._wait_for_room()
                    rest = rest[os.write(self._connection.fileno(), rest) :]
        except OSError:
            return False
        return True

    def _end_writer(self) -> None:
        with self._order:
            self._is_ending = True
            self._order.notify()


def parts_of(body: bytes) -> list[memoryview]:
    """What is written of an encoded message, in order."""
    header = HEADER.pack(len(body))
    if len(body) <= JOINED_BYTES:
        return [memoryview(header + body)]
    return [memoryview(header), memoryview(body)]


def skip(parts: Sequence[memoryview], written: int) -> list[memoryview]:
    """What remains of these parts after their first `written` bytes."""
    rest: list[memoryview] = []
    for part in parts:
        if written < len(part):
            rest.append(part[written:])
        written = max(0, written - len(part))
    return rest


def worker_end(connection: Connection) -> Channel[ToWorker, ToService]:
    """The worker's end of the channel."""
    return Channel(connection, msgspec.msgpack.Decoder(ToWorker))


def service_end(connection: Connection) -> Channel[ToService, ToWorker]:
    """The service's end of the channel."""
    return Channel(connection, msgspec.msgpack.Decoder(ToService))
