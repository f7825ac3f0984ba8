"""Frames between ranks: only what the peer has sent, in its order, is received."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.waiting import HANG_S, wait_for
from worker.ranks.joining.frames import CODE_BYTES, HEARTBEAT, LENGTH, BadFrame, Frames

SECRET = b"s" * 32


@contextmanager
def connected(secret: bytes = SECRET, rank: int = 1) -> Iterator[tuple[Frames, Frames]]:
    """Rank 0's end, and that of another rank, which may have another secret or number."""
    first, second = socket.socketpair()
    leader, follower = (
        Frames(first, SECRET, own=0, peer=1),
        Frames(second, secret, own=rank, peer=0),
    )
    try:
        yield leader, follower
    finally:
        leader.close()
        follower.close()


@contextmanager
def tapped() -> Iterator[tuple[Frames, socket.socket]]:
    """A rank's end, and the bare socket to it."""
    first, second = socket.socketpair()
    with first:
        follower = Frames(second, SECRET, own=1, peer=0)
        try:
            yield follower, first
        finally:
            follower.close()


def record(*bodies: bytes) -> list[bytes]:
    """The frames that rank 0 sends for these bodies."""
    first, second = socket.socketpair()
    with second:
        leader = Frames(first, SECRET, own=0, peer=1)
        for body in bodies:
            leader.send(body)
        leader.close()
        sent = b"".join(iter(lambda: second.recv(1 << 16), b""))
    frames = []
    for body in bodies:
        size = LENGTH.size + CODE_BYTES + len(body)
        frames.append(sent[:size])
        sent = sent[size:]
    return frames


def test_frames_arrive_in_their_order_in_both_directions() -> None:
    with connected() as (leader, follower):
        leader.send(b"one")
        leader.send(HEARTBEAT)
        leader.send(b"three")
        follower.send(b"two")
        received = [follower.receive(), follower.receive(), leader.receive()]
        assert received == [b"one", b"three", b"two"]


def test_a_peer_that_has_nothing_to_say_is_not_silent() -> None:
    with connected() as (leader, follower):
        follower.start_heartbeats(HANG_S)
        # The bound of a frame: it is a heartbeat that comes.
        leader.set_timeout(HANG_S)
        beats = threading.Event()

        def receive() -> None:
            with pytest.raises(EOFError):
                leader.receive()
            beats.set()

        threading.Thread(target=receive, daemon=True).start()
        wait_for(lambda: follower.sent_bytes >= 2 * (LENGTH.size + CODE_BYTES))
        assert not beats.is_set()
        follower.close()
        assert beats.wait(HANG_S)


def test_a_silent_peer_is_lost() -> None:
    with connected() as (leader, _):
        leader.start_heartbeats(0.05)
        with pytest.raises(TimeoutError, match="has sent nothing"):
            leader.receive()


@pytest.mark.parametrize(("secret", "rank"), [(b"t" * 32, 1), (SECRET, 2)])
def test_a_frame_of_another_secret_or_rank_is_refused(secret: bytes, rank: int) -> None:
    with connected(secret, rank) as (leader, follower):
        leader.send(b"one")
        with pytest.raises(BadFrame, match="wrong code"):
            follower.receive()


@pytest.mark.parametrize("order", [[1], [0, 0], [1, 0]])
def test_a_frame_that_is_left_out_repeated_or_swapped_is_refused(order: list[int]) -> None:
    frames = record(b"one", b"two")
    with tapped() as (follower, wire):
        wire.sendall(b"".join(frames[number] for number in order))
        with pytest.raises(BadFrame, match="wrong code"):
            list(iter(follower.receive, None))


def test_a_frame_that_is_changed_is_refused() -> None:
    [frame] = record(b"one")
    with tapped() as (follower, wire):
        wire.sendall(frame[:-1] + b"f")
        with pytest.raises(BadFrame, match="wrong code"):
            follower.receive()


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    with tapped() as (follower, wire):
        wire.sendall(LENGTH.pack(4097))
        with pytest.raises(BadFrame, match="4097 bytes"):
            follower.receive(4096)


def test_the_end_of_the_peer_is_the_end_of_the_frames() -> None:
    with tapped() as (follower, wire):
        wire.close()
        with pytest.raises(EOFError):
            follower.receive()
