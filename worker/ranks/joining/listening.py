"""Rank 0's side of the first connections: who knows the secret says hello.

Each connection has a thread of its own, so that a stranger who says nothing delays nobody.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Generator

import msgspec

from protocol.ranks import RankGroup
from worker.ranks.joining.frames import MAX_HELLO_BYTES, BadFrame, Frames
from worker.ranks.joining.hello import Hello, decode_hello

# A rank imports MLX before it says hello; on a busy machine that takes long.
MEETING_TIMEOUT_S = 300.0
HELLO_TIMEOUT_S = 60.0
MAX_AT_ONCE = 128
POLL_S = 0.1
UNKNOWN_RANK = 0xFFFF

Greeting = tuple[Frames, Hello] | Exception


class MeetingFailed(RuntimeError):
    """The ranks cannot work together; the message says why."""


class NotMet(MeetingFailed):
    """Not all ranks have come in time."""


def receive_hellos(group: RankGroup) -> Generator[tuple[Frames, Hello], None, None]:
    """Each connection that is of a rank, with what it says, until the caller closes this.

    Raises:
        MeetingFailed: a rank says hello as another version does.
        NotMet: no rank comes any more.
    """
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    greetings: queue.SimpleQueue[Greeting] = queue.SimpleQueue()
    has_enough = threading.Event()
    with socket.socket(fileno=group.listener) as listener:
        words = [listener, group, greetings, has_enough]
        accept = threading.Thread(target=accept_all, args=words, name="rank-accept", daemon=True)
        accept.start()
        try:
            while True:
                left_s = max(0.0, deadline - time.monotonic())
                try:
                    greeting = greetings.get(timeout=left_s)
                except queue.Empty:
                    raise NotMet(f"not come in {MEETING_TIMEOUT_S:g} s") from None
                if isinstance(greeting, Exception):
                    raise greeting
                yield greeting
        finally:
            has_enough.set()
            accept.join()


def accept_all(
    listener: socket.socket,
    group: RankGroup,
    greetings: queue.SimpleQueue[Greeting],
    has_enough: threading.Event,
) -> None:
    """Accept connections until there are enough."""
    places = threading.BoundedSemaphore(MAX_AT_ONCE)
    listener.settimeout(POLL_S)
    while not has_enough.is_set():
        # Also an error of one connection, which has ended before it was accepted.
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            if places.acquire(blocking=False):
                words = [connection, group, greetings, places]
                threading.Thread(target=greet, args=words, daemon=True).start()
            else:
                connection.close()


def greet(
    connection: socket.socket,
    group: RankGroup,
    greetings: queue.SimpleQueue[Greeting],
    places: threading.Semaphore,
) -> None:
    """Queue what the other end says, unless it does not know the secret."""
    frames = Frames(connection, group.secret, own=0, peer=UNKNOWN_RANK)
    try:
        connection.setblocking(True)
        send_at_once(connection)
        frames.set_timeout(HELLO_TIMEOUT_S)
        hello = decode_hello(frames.receive(MAX_HELLO_BYTES))
        if not 0 < hello.rank < group.size:
            raise BadFrame(f"there is no rank {hello.rank}")
        frames.set_ranks(own=0, peer=hello.rank)
        frames.set_timeout(None)
        greetings.put((frames, hello))
    except msgspec.MsgspecError as error:
        frames.close()
        # Its code was right.
        greetings.put(MeetingFailed(f"a rank has another version of mlxd: {error}"))
    except (OSError, EOFError, BadFrame):
        frames.close()
    finally:
        places.release()


def send_at_once(connection: socket.socket) -> None:
    """Send what is written without waiting for more: another rank waits for it."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
