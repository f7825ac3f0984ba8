"""How the ranks of a group find each other: rank 0 accepts the others, then all make MLX's group.

A rank that cannot prove that it knows the secret is not accepted. All ranks must have the same
versions of what computes: others round otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from protocol.ranks import RankGroup
from worker.ranks.joining.backends import HeldPorts, NoBackend, choose_backend, list_backends
from worker.ranks.joining.frames import BadFrame, Frames
from worker.ranks.joining.hello import (
    Hello,
    Refusal,
    Welcome,
    decode_answer,
    encode,
)
from worker.ranks.joining.listening import (
    MEETING_TIMEOUT_S,
    UNKNOWN_RANK,
    MeetingFailed,
    NotMet,
    receive_hellos,
    send_at_once,
)
from worker.ranks.joining.versions import describe_difference, read_versions

logger = logging.getLogger(__name__)

# A host that is away may not answer at all. Connecting again soon finds it once it is back.
CONNECT_TIMEOUT_S = 5.0
CONNECT_PAUSE_S = 0.5


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
    try:
        with contextlib.closing(receive_hellos(group)) as hellos_received:
            while len(ranks) < group.size - 1:
                frames, hello = next(hellos_received)
                if hello.rank in ranks:
                    frames.close()
                    continue
                ranks[hello.rank] = frames, hello
                on_met(sorted(ranks))
        connections = {rank: connection for rank, (connection, _) in sorted(ranks.items())}
        hellos = [own, *(hello for _, (_, hello) in sorted(ranks.items()))]
        welcome = make_welcome(group, hellos, silence_s)
        send_to_all(group, connections, welcome)
    except NotMet as error:
        missing = ", ".join(group.name_of(n) for n in range(1, group.size) if n not in ranks)
        raise MeetingFailed(f"{error}: {missing}") from None
    except MeetingFailed as error:
        for frames, _ in ranks.values():
            # They end in any case.
            with contextlib.suppress(OSError):
                frames.send(encode(Refusal(str(error))))
            frames.close()
        raise
    return connections, welcome, hellos


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


def send_to_all(group: RankGroup, ranks: Mapping[int, Frames], welcome: Welcome) -> None:
    """Send what connects the ranks to all.

    Raises:
        MeetingFailed: one has gone.
    """
    for rank, frames in ranks.items():
        try:
            frames.send(encode(welcome))
        except OSError as error:
            raise MeetingFailed(f"{group.name_of(rank)} has gone: {error}") from error


def join_rank_0(group: RankGroup, hello: Hello) -> tuple[Frames, Welcome]:
    """Another rank: connect to rank 0, say hello, and wait until all ranks are there.

    Raises:
        MeetingFailed: rank 0 is not there, or refuses this rank.
    """
    host, port = group.plan_address
    try:
        connection = connect((host, port))
    except OSError as error:
        raise MeetingFailed(f"rank 0 cannot be reached at {host}:{port}: {error}") from error
    frames = Frames(connection, group.secret, own=UNKNOWN_RANK, peer=0)
    try:
        send_at_once(connection)
        frames.send(encode(hello))
        frames.set_ranks(own=group.rank, peer=0)
        answer = decode_answer(frames.receive())
    except (OSError, EOFError, BadFrame, msgspec.MsgspecError) as error:
        frames.close()
        raise MeetingFailed(f"rank 0 at {host}:{port} gives no answer: {error}") from error
    if isinstance(answer, Refusal):
        frames.close()
        raise MeetingFailed(f"rank 0 refuses: {answer.reason}")
    return frames, answer


def connect(address: tuple[str, int]) -> socket.socket:
    """A connection to rank 0, as soon as it can be reached.

    Raises:
        OSError: it cannot, for `MEETING_TIMEOUT_S`.
    """
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    has_failed = False
    while True:
        try:
            connection = socket.create_connection(address, CONNECT_TIMEOUT_S)
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            if not has_failed:
                logger.warning("rank 0 cannot be reached at %s:%d yet: %s", *address, error)
            has_failed = True
            time.sleep(CONNECT_PAUSE_S)
        else:
            connection.settimeout(MEETING_TIMEOUT_S)
            return connection


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
