"""How the ranks of a group find each other: rank 0 accepts the others, then all make MLX's group.

A rank that cannot prove that it knows the secret is not accepted. All ranks must have the same
versions of what computes: others round otherwise.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable

import msgspec

from protocol.ranks import RankGroup
from worker.ranks.joining.backends import HeldPorts, NoBackend, choose_backend, list_backends
from worker.ranks.joining.frames import MAX_HELLO_BYTES, BadFrame, Frames
from worker.ranks.joining.hello import (
    Answer,
    Hello,
    Refusal,
    Welcome,
    decode_answer,
    decode_hello,
    encode,
)
from worker.ranks.joining.versions import describe_difference, read_versions

# A rank imports MLX before it says hello; on a busy machine that takes long.
MEETING_TIMEOUT_S = 300.0
HELLO_TIMEOUT_S = 60.0
UNKNOWN_RANK = 0xFFFF
# A host that is away may not answer at all. Connecting again soon finds it once it is back.
CONNECT_TIMEOUT_S = 5.0
CONNECT_PAUSE_S = 0.5


class MeetingFailed(RuntimeError):
    """The ranks cannot work together; the message says why."""


def accept_ranks(
    group: RankGroup, own: Hello, silence_s: float, on_met: Callable[[list[int]], None]
) -> tuple[dict[int, Frames], Welcome, list[Hello]]:
    """Rank 0: accept all other ranks, and answer once all are there.

    Returns the connections to the others, what connects all, and what each has said, in the
    order of the ranks. `own` is what rank 0 would say. `on_met` is called with those that are
    there, first when none is. A rank that is then silent for `silence_s` is lost.

    Raises:
        MeetingFailed: a rank does not come, or the ranks cannot work together.
    """
    ranks: dict[int, tuple[Frames, Hello]] = {}
    on_met([])
    with socket.socket(fileno=group.listener) as listener:
        deadline = time.monotonic() + MEETING_TIMEOUT_S
        while len(ranks) < group.size - 1:
            listener.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                missing = [n for n in range(1, group.size) if n not in ranks]
                names = ", ".join(map(group.name_of, missing))
                raise MeetingFailed(f"not come in {MEETING_TIMEOUT_S:g} s: {names}") from None
            accept_one(connection, group, ranks)
            on_met(sorted(ranks))
    frames = {rank: connection for rank, (connection, _) in sorted(ranks.items())}
    hellos = [own, *(hello for _, (_, hello) in sorted(ranks.items()))]
    try:
        welcome = make_welcome(group, hellos, silence_s)
    except MeetingFailed as error:
        send_to_all(frames.values(), Refusal(str(error)))
        raise
    send_to_all(frames.values(), welcome)
    return frames, welcome, hellos


def accept_one(
    connection: socket.socket, group: RankGroup, ranks: dict[int, tuple[Frames, Hello]]
) -> None:
    """Add the rank at the other end to `ranks`, unless it does not know the secret.

    Raises:
        MeetingFailed: it knows the secret, and says hello as another version does.
    """
    connection.setblocking(True)
    send_at_once(connection)
    frames = Frames(connection, group.secret, own=0, peer=UNKNOWN_RANK)
    frames.set_timeout(HELLO_TIMEOUT_S)
    try:
        body = frames.receive(MAX_HELLO_BYTES)
    except (OSError, EOFError, BadFrame):
        frames.close()
        return
    try:
        hello = decode_hello(body)
    except msgspec.MsgspecError as error:
        raise MeetingFailed(f"a rank has another version of mlxd: {error}") from error
    if not 0 < hello.rank < group.size or hello.rank in ranks:
        frames.close()
        return
    frames.set_ranks(own=0, peer=hello.rank)
    frames.set_timeout(None)
    ranks[hello.rank] = frames, hello


def make_welcome(group: RankGroup, hellos: Iterable[Hello], silence_s: float) -> Welcome:
    """What connects the ranks, by what each has said.

    Raises:
        MeetingFailed: they cannot work together.
    """
    own, *others = hellos
    for hello in others:
        if (difference := describe_difference(hello.versions, own.versions)) is not None:
            raise MeetingFailed(f"{group.name_of(hello.rank)} has {difference}")
    try:
        backend = choose_backend(group, {h.rank: h.backends for h in (own, *others)})
    except NoBackend as error:
        raise MeetingFailed(str(error)) from error
    ring = [hello.addresses for hello in (own, *others)]
    return Welcome(backend, ring, own.addresses[0], silence_s)


def send_to_all(ranks: Iterable[Frames], answer: Answer) -> None:
    """Send an answer to all ranks.

    Raises:
        MeetingFailed: one has gone.
    """
    for frames in ranks:
        try:
            frames.send(encode(answer))
        except OSError as error:
            raise MeetingFailed(f"a rank has gone: {error}") from error


def join_rank_0(group: RankGroup, hello: Hello) -> tuple[Frames, Welcome]:
    """Another rank: connect to rank 0, say hello, and wait until all ranks are there.

    Raises:
        MeetingFailed: rank 0 is not there, or refuses this rank.
    """
    host, port = group.plan_address
    try:
        connection = connect((host, port))
        send_at_once(connection)
        frames = Frames(connection, group.secret, own=UNKNOWN_RANK, peer=0)
        frames.send(encode(hello))
        frames.set_ranks(own=group.rank, peer=0)
        answer = decode_answer(frames.receive())
    except (OSError, EOFError, BadFrame, msgspec.MsgspecError) as error:
        raise MeetingFailed(f"rank 0 cannot be reached at {host}:{port}: {error}") from error
    if isinstance(answer, Refusal):
        raise MeetingFailed(f"rank 0 refuses: {answer.reason}")
    return frames, answer


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


def hold_ports(group: RankGroup) -> HeldPorts:
    """Free ports of this rank at each of its addresses.

    Raises:
        MeetingFailed: an address is not of this host.
    """
    try:
        return HeldPorts(group.addresses[group.rank])
    except NoBackend as error:
        raise MeetingFailed(f"{group.name_of(group.rank)}: {error}") from error


def make_hello(group: RankGroup, ports: HeldPorts, budget_bytes: int) -> Hello:
    """What this rank says to rank 0."""
    return Hello(
        rank=group.rank,
        versions=read_versions(),
        backends=list_backends(),
        addresses=ports.addresses,
        budget_bytes=budget_bytes,
    )
