"""Frames between two ranks over plain TCP: each has a counter and an authentication code.

A frame is the length of its body, the code (HMAC-SHA256 of sender, receiver, counter and body)
and the body. The counter is not sent: both ends count. So a frame that is changed, left out,
repeated or of another connection is refused. The body itself is not encrypted.

A frame with an empty body is a heartbeat: each end sends them at intervals, so that a peer that
is stopped, or cut off without a word, is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
import struct
import threading
import time

LENGTH = struct.Struct(">I")
CONTEXT = struct.Struct(">HHQ")
CODE_BYTES = 32
# A plan has the token ids of every prompt that is admitted at once.
MAX_BODY_BYTES = 1 << 30
# Before a rank has shown that it knows the secret.
MAX_HELLO_BYTES = 4096
HEARTBEAT = b""
MAX_HEARTBEAT_S = 1.0
HEARTBEATS_PER_SILENCE = 10


class Frames:
    """One end of a connection between this rank and its `peer`; one thread receives."""

    def __init__(self, connection: socket.socket, secret: bytes, *, own: int, peer: int) -> None:
        self._connection = connection
        self._secret = secret
        self._own, self._peer = own, peer
        self._sent = self._received = 0
        self._sending = threading.Lock()
        self.sent_bytes = 0

    def send(self, body: bytes) -> None:
        """Send a frame, and wait until the system has taken it.

        Raises:
            OSError: the connection is lost.
        """
        with self._sending:
            code = self._code(self._own, self._peer, self._sent, body)
            self._sent += 1
            frame = b"".join((LENGTH.pack(len(body)), code, body))
            self.sent_bytes += len(frame)
            self._connection.sendall(frame)

    def receive(self, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """The body of the next frame that is no heartbeat.

        Raises:
            EOFError: the peer has closed the connection.
            OSError: the connection is lost, or the peer is silent for too long.
            BadFrame: it is too long, or its code is wrong.
        """
        while True:
            if (body := self._receive_any(max_bytes)) != HEARTBEAT:
                return body

    def _receive_any(self, max_bytes: int) -> bytes:
        (length,) = LENGTH.unpack(self._read(LENGTH.size))
        if length > max_bytes:
            raise BadFrame(f"a frame of {length} bytes, more than {max_bytes}")
        code, body = self._read(CODE_BYTES), self._read(length)
        expected = self._code(self._peer, self._own, self._received, body)
        if not hmac.compare_digest(code, expected):
            raise BadFrame(f"frame {self._received} of rank {self._peer} has a wrong code")
        self._received += 1
        return body

    def set_ranks(self, *, own: int, peer: int) -> None:
        """Set which ranks the two ends are, once that is known."""
        self._own, self._peer = own, peer

    def set_timeout(self, seconds: float | None) -> None:
        """How long a call may wait for the peer; None without a bound."""
        self._connection.settimeout(seconds)

    def start_heartbeats(self, silence_s: float) -> None:
        """Send heartbeats until the connection ends; a peer that sends none is silent.

        From now on a call fails once the peer was silent, or has read nothing, for `silence_s`.
        """
        self.set_timeout(silence_s)
        every_s = min(MAX_HEARTBEAT_S, silence_s / HEARTBEATS_PER_SILENCE)
        name = f"rank-{self._peer}-heartbeat"
        threading.Thread(target=self._beat, args=[every_s], name=name, daemon=True).start()

    def _beat(self, every_s: float) -> None:
        # That the connection is lost, who receives notices.
        with contextlib.suppress(OSError):
            while True:
                self.send(HEARTBEAT)
                time.sleep(every_s)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _code(self, sender: int, receiver: int, counter: int, body: bytes) -> bytes:
        code = hmac.new(self._secret, CONTEXT.pack(sender, receiver, counter), hashlib.sha256)
        code.update(body)
        return code.digest()

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._connection.recv(min(size - len(parts), 1 << 20))
            except TimeoutError:
                silence_s = self._connection.gettimeout()
                raise TimeoutError(f"it has sent nothing for {silence_s:g} s") from None
            if not part:
                raise EOFError("the connection was closed")
            parts += part
        return bytes(parts)


class BadFrame(Exception):
    """A frame that the peer cannot have sent."""
