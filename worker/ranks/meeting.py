"""How the ranks of a group find each other: rank 0 accepts the others, then all make the ring.

A rank that cannot prove that it knows the secret is not accepted. All ranks must have the same
versions of what computes: others round otherwise.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import msgspec

from protocol.ranks import RankGroup
from worker.ranks.frames import MAX_HELLO_BYTES, BadFrame, Frames
from worker.ranks.plan import Hello, decode_answer, decode_plan, encode

# A rank imports MLX before it says hello; on a busy machine that takes long.
MEETING_TIMEOUT_S = 300.0
HELLO_TIMEOUT_S = 60.0
# A host that is away may not answer at all. Connecting again soon finds it once it is back.
CONNECT_TIMEOUT_S = 5.0
CONNECT_PAUSE_S = 0.5
COMPARED_PACKAGES = ("mlx", "mlx-lm", "numpy")
UNKNOWN_RANK = 0xFFFF


class MeetingFailed(RuntimeError):
    """The ranks cannot work together; the message says why."""


def accept_ranks(
    group: RankGroup, silence_s: float, on_met: Callable[[list[int]], None]
) -> dict[int, Frames]:
    """Rank 0: accept all other ranks, and answer once all are there.

    `on_met` is called with those that are there, first when none is. A rank that is then silent
    for `silence_s` is lost.

    Raises:
        MeetingFailed: a rank does not come, or has other versions.
    """
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    ranks: dict[int, Frames] = {}
    on_met([])
    with socket.socket(fileno=group.listener) as listener:
        while len(ranks) < group.size - 1:
            listener.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                missing = sorted(set(range(1, group.size)) - ranks.keys())
                raise MeetingFailed(f"ranks {missing} have not come") from None
            if (accepted := accept_one(connection, group)) is not None:
                rank, frames = accepted
                ranks.setdefault(rank, frames)
                on_met(sorted(ranks))
    for frames in ranks.values():
        frames.send(encode(Hello(0, versions(), silence_s)))
    return ranks


def accept_one(connection: socket.socket, group: RankGroup) -> tuple[int, Frames] | None:
    """The rank at the other end; None if it does not know the secret.

    Raises:
        MeetingFailed: it has other versions.
    """
    connection.setblocking(True)
    send_at_once(connection)
    frames = Frames(connection, group.secret, own=0, peer=UNKNOWN_RANK)
    frames.set_timeout(HELLO_TIMEOUT_S)
    try:
        hello = decode_answer(frames.receive(MAX_HELLO_BYTES))
    except (OSError, EOFError, BadFrame, msgspec.MsgspecError):
        frames.close()
        return None
    if not isinstance(hello, Hello) or not 0 < hello.rank < group.size:
        frames.close()
        return None
    compare_versions(hello)
    frames.set_ranks(own=0, peer=hello.rank)
    frames.set_timeout(None)
    return hello.rank, frames


def join_rank_0(group: RankGroup) -> tuple[Frames, float]:
    """Another rank: connect to rank 0, and wait until all ranks are there.

    The second value is for how long rank 0 may then be silent.

    Raises:
        MeetingFailed: rank 0 is not there, or has other versions.
    """
    try:
        connection = connect(group.plan_address)
        send_at_once(connection)
        frames = Frames(connection, group.secret, own=UNKNOWN_RANK, peer=0)
        frames.send(encode(Hello(group.rank, versions())))
        frames.set_ranks(own=group.rank, peer=0)
        answer = decode_plan(frames.receive(MAX_HELLO_BYTES))
    except (OSError, EOFError, BadFrame, msgspec.MsgspecError) as error:
        raise MeetingFailed(f"rank 0 cannot be reached: {error}") from error
    if not isinstance(answer, Hello):
        raise MeetingFailed("rank 0 has answered something else")
    compare_versions(answer)
    return frames, answer.silence_s


def connect(address: tuple[str, int]) -> socket.socket:
    """A connection to rank 0, as soon as it can be reached.

    Raises:
        OSError: it cannot, for `MEETING_TIMEOUT_S`.
    """
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    while True:
        try:
            connection = socket.create_connection(address, CONNECT_TIMEOUT_S)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(CONNECT_PAUSE_S)
        else:
            connection.settimeout(MEETING_TIMEOUT_S)
            return connection


def send_at_once(connection: socket.socket) -> None:
    """Send what is written without waiting for more: another rank waits for it."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def compare_versions(hello: Hello) -> None:
    """Compare the versions of another rank with those of this one.

    Raises:
        MeetingFailed: they differ.
    """
    if hello.versions != versions():
        raise MeetingFailed(
            f"rank {hello.rank} has {', '.join(hello.versions)}; here are {', '.join(versions())}"
        )


def versions() -> list[str]:
    """What computes on this rank, with versions."""
    packages = [f"{name} {version(name)}" for name in COMPARED_PACKAGES]
    return [*packages, f"Python {platform.python_version()}", mx.default_device().type.name]


def make_ring(group: RankGroup, limit_s: float) -> mx.distributed.Group:
    """The group of MLX's ring backend, once all ranks call this.

    MLX (0.32.4) holds the interpreter's lock meanwhile, so that no thread of this process runs:
    no heartbeat is sent, and nothing is watched. So the system ends this process after `limit_s`
    (SIGALRM). It can go when MLX releases the lock.

    Raises:
        RuntimeError: another rank is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        hostfile = Path(folder, "ring.json")
        hostfile.write_text(json.dumps(group.ring), "utf-8")
        os.environ["MLX_HOSTFILE"] = str(hostfile)
        os.environ["MLX_RANK"] = str(group.rank)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            return mx.distributed.init(strict=True, backend="ring")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
