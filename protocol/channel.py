"""One end of the pipe: typed messages in, typed messages out.

Framing is `multiprocessing.connection`'s. The worker waits for messages in a thread, the
service takes what has come when its event loop finds some. A message is written at once
where the pipe has room for it, which spares a step the way through another thread; what
it has no room for waits for the writer thread. Whatever breaks it (end of file, a
truncated or oversized frame, a message of no known type) is `Closed`: the other side can
no longer be trusted, and its owner replaces it.
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

from protocol.messages import ToService, ToWorker

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
READ_BYTES = 64 * 1024
# Its length comes first; MAX_MESSAGE_BYTES is below where longer headers begin.
HEADER = struct.Struct("!i")
PAIR_KIND = (socket.AF_UNIX, socket.SOCK_STREAM, 0)

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")


class Closed(Exception):
    """The other end is gone, or what it sends can no longer be read."""


class Channel(Generic[Incoming, Outgoing]):
    """Messages over one duplex connection; reading and writing may be different threads."""

    def __init__(self, connection: Connection, decoder: msgspec.msgpack.Decoder[Incoming]) -> None:
        self._connection = connection
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        self._incomplete = bytearray()
        self._outbox: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        # Held by whoever decides where a message goes; `_queued` are not yet written.
        self._order = threading.Lock()
        self._queued = 0
        self._writer = threading.Thread(target=self._write, name="channel-writer", daemon=True)
        self._writer.start()

    def send(self, message: Outgoing) -> None:
        """Write `message`, or queue what has no room. Never blocks; after a close it is lost."""
        body = self._encoder.encode(message)
        frame = memoryview(HEADER.pack(len(body)) + body)
        with self._order:
            if not self._queued:
                frame = frame[self._write_some(frame) :]
            if frame:
                self._queued += 1
                self._outbox.put(frame)

    def fileno(self) -> int:
        """What an event loop watches to know when `take` has something to read."""
        return self._connection.fileno()

    def recv(self) -> Incoming:
        """Wait for the next message. Not for who calls `take`.

        Raises:
            Closed: the connection ended or carried something that is no message.
        """
        try:
            return self._decoder.decode(self._connection.recv_bytes(MAX_MESSAGE_BYTES))
        except (EOFError, OSError, MemoryError, msgspec.MsgspecError, UnicodeError) as error:
            raise Closed(repr(error)) from error

    def take(self) -> Iterator[Incoming]:
        """The messages that have come, of one read; the beginning of the next is kept.

        Not for who has no event loop that tells when there is something to read: it may wait.

        Raises:
            Closed: the connection ended or carried something that is no message.
        """
        self._incomplete += self._read_some()
        begin = 0
        try:
            while (end := self._end_of_message(begin)) is not None:
                body = self._incomplete[begin + HEADER.size : end]
                begin = end
                yield self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise Closed(repr(error)) from error
        finally:
            del self._incomplete[:begin]

    def flush(self, timeout_s: float) -> None:
        """Write what is queued, for at most `timeout_s`, and stop writing."""
        self._outbox.put(None)
        self._writer.join(timeout_s)

    def close(self) -> None:
        """Stop both directions; a reader blocked in `recv` must be woken by the other end."""
        self._outbox.put(None)
        self._connection.close()

    def _end_of_message(self, begin: int) -> int | None:
        """Where the message ends that begins there; None where it has not wholly come."""
        if len(self._incomplete) < begin + HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._incomplete, begin)
        if not 0 <= length <= MAX_MESSAGE_BYTES:
            raise Closed(f"a message of {length} bytes")
        end: int = begin + HEADER.size + length
        return end if end <= len(self._incomplete) else None

    def _read_some(self) -> bytes:
        try:
            data = os.read(self._connection.fileno(), READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise Closed(repr(error)) from error
        if not data:
            raise Closed("end of file")
        return data

    def _write_some(self, frame: memoryview) -> int:
        """How many of its bytes went into the pipe without waiting."""
        try:
            # The pipe is a pair of sockets; only as a socket does it know such a write.
            borrowed = socket.socket(*PAIR_KIND, self._connection.fileno())
        except OSError:
            return 0
        try:
            return borrowed.send(frame, socket.MSG_DONTWAIT)
        except OSError:
            # Full, or broken: the writer finds out which.
            return 0
        finally:
            borrowed.detach()

    def _wait_for_room(self) -> None:
        """uvloop makes the pipe that it watches a non-blocking one, so a write does not wait."""
        room = select.poll()
        room.register(self._connection.fileno(), select.POLLOUT)
        room.poll()

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
    """The channel as the worker holds it."""
    return Channel(connection, msgspec.msgpack.Decoder(ToWorker))


def service_end(connection: Connection) -> Channel[ToService, ToWorker]:
    """The channel as the service holds it."""
    return Channel(connection, msgspec.msgpack.Decoder(ToService))
