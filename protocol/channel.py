"""One end of the pipe: typed messages in, typed messages out.

Framing is `multiprocessing.connection`'s. Whatever breaks it (end of file, a
truncated or oversized frame, a message of no known type) is `Closed`: the other
side can no longer be trusted, and its owner replaces it.
"""

from __future__ import annotations

import queue
import threading
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

import msgspec

from protocol.messages import ToService, ToWorker

MAX_MESSAGE_BYTES = 256 * 1024 * 1024

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
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="channel-writer", daemon=True)
        self._writer.start()

    def send(self, message: Outgoing) -> None:
        """Queue `message` for the writer thread. Never blocks; after a close it is dropped."""
        self._outbox.put(self._encoder.encode(message))

    def recv(self) -> Incoming:
        """Wait for the next message.

        Raises:
            Closed: the connection ended or carried something that is no message.
        """
        try:
            return self._decoder.decode(self._connection.recv_bytes(MAX_MESSAGE_BYTES))
        except (EOFError, OSError, MemoryError, msgspec.MsgspecError, UnicodeError) as error:
            raise Closed(repr(error)) from error

    def flush(self, timeout_s: float) -> None:
        """Write what is queued, for at most `timeout_s`, and stop writing."""
        self._outbox.put(None)
        self._writer.join(timeout_s)

    def close(self) -> None:
        """Stop both directions; a reader blocked in `recv` must be woken by the other end."""
        self._outbox.put(None)
        self._connection.close()

    def _write(self) -> None:
        while (frame := self._outbox.get()) is not None:
            try:
                self._connection.send_bytes(frame)
            except OSError:
                return


def worker_end(connection: Connection) -> Channel[ToWorker, ToService]:
    """The channel as the worker holds it."""
    return Channel(connection, msgspec.msgpack.Decoder(ToWorker))


def service_end(connection: Connection) -> Channel[ToService, ToWorker]:
    """The channel as the service holds it."""
    return Channel(connection, msgspec.msgpack.Decoder(ToService))
