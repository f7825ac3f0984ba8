"""How ranks find each other: only with the secret, and only with the same versions."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from protocol.ranks import RankGroup
from tests.waiting import HANG_S
from worker.ranks.joining.frames import Frames
from worker.ranks.joining.hello import Hello, Welcome
from worker.ranks.joining.listening import UNKNOWN_RANK, MeetingFailed
from worker.ranks.joining.meeting import accept_ranks, join_rank_0

VERSIONS = {"mlxd": "1", "mlx": "2"}
SILENCE_S = 30.0


class Meeting:
    """Rank 0 of a group on loopback, which accepts the others in a thread of its own."""

    def __init__(self, size: int = 2) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.group = RankGroup(
            rank=0,
            secret=b"s" * 32,
            hosts=["first", *(f"host{rank}" for rank in range(1, size))],
            addresses=[["127.0.0.1"]] * size,
            plan_address=listener.getsockname(),
            listener=listener.detach(),
        )
        self.met: list[list[int]] = []
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def group_for(self, rank: int, secret: bytes = b"s" * 32) -> RankGroup:
        """What another rank knows."""
        return msgspec.structs.replace(self.group, rank=rank, secret=secret, listener=-1)

    def end(self) -> Any:
        """What rank 0 has got, or why it has failed."""
        self._thread.join(HANG_S)
        assert self.outcome is not None
        return self.outcome

    def _accept(self) -> None:
        try:
            self.outcome = accept_ranks(self.group, make_hello(0), SILENCE_S, self.met.append)
        except MeetingFailed as error:
            self.outcome = str(error)


def make_hello(rank: int, **changes: Any) -> Hello:
    """What a rank says."""
    facts = Hello(rank, VERSIONS, ["ring"], [f"127.0.0.1:{rank + 1}"], 1000 - rank)
    return msgspec.structs.replace(facts, **changes)


def join_all(*joins: Callable[[], Any]) -> list[Any]:
    """What several ranks get, or why they fail, that join at the same time."""
    results: list[Any] = [None] * len(joins)

    def run(number: int) -> None:
        try:
            results[number] = joins[number]()
        except MeetingFailed as error:
            results[number] = str(error)

    threads = [threading.Thread(target=run, args=[n], daemon=True) for n in range(len(joins))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    return results


def test_all_ranks_get_the_addresses_of_all() -> None:
    meeting = Meeting(3)
    results = join_all(
        *(
            lambda rank=rank: join_rank_0(meeting.group_for(rank), make_hello(rank))
            for rank in (2, 1)
        )
    )
    frames, welcome, hellos = meeting.end()
    ring = [["127.0.0.1:1"], ["127.0.0.1:2"], ["127.0.0.1:3"]]
    assert welcome == Welcome("ring", ring, "127.0.0.1:1", SILENCE_S)
    assert [welcome for _, welcome in results] == [welcome] * 2
    assert list(frames) == [1, 2]
    assert [hello.rank for hello in hellos] == [0, 1, 2]
    assert meeting.met[0] == []
    assert meeting.met[-1] == [1, 2]
    for connection in (*frames.values(), *(connection for connection, _ in results)):
        connection.close()


def test_a_rank_of_another_version_is_refused_by_its_host_and_both_know_why() -> None:
    meeting = Meeting()
    other = make_hello(1, versions={"mlxd": "1", "mlx": "3"})
    [reason] = join_all(lambda: join_rank_0(meeting.group_for(1), other))
    expected = "rank 1 on host host1 has mlx 3 where rank 0 has 2"
    assert meeting.end() == expected
    assert reason == f"rank 0 refuses: {expected}"


def test_a_rank_without_the_backend_is_refused_by_its_host() -> None:
    meeting = Meeting()
    [reason] = join_all(lambda: join_rank_0(meeting.group_for(1), make_hello(1, backends=[])))
    assert meeting.end() == "MLX on rank 1 on host host1 has no backend ring"
    assert "has no backend ring" in reason


def test_a_hello_of_another_version_is_said_to_be_one() -> None:
    meeting = Meeting()
    with socket.create_connection(meeting.group.plan_address, HANG_S) as connection:
        frames = Frames(connection, meeting.group.secret, own=UNKNOWN_RANK, peer=0)
        frames.send(b"\x93\xa5hello\x01\x90")
        assert "another version of mlxd" in meeting.end()


def test_who_does_not_know_the_secret_is_not_accepted_and_delays_nobody() -> None:
    meeting = Meeting()
    address = meeting.group.plan_address
    with socket.create_connection(address, HANG_S), socket.create_connection(address) as other:
        # One says nothing, one something else, one has another secret.
        other.sendall(b"GET / HTTP/1.1\r\n\r\n")
        group = meeting.group_for(1, b"x" * 32)
        [stranger] = join_all(lambda: join_rank_0(group, make_hello(1)))
        assert stranger.startswith("rank 0 at 127.0.0.1:")
        [(connection, _)] = join_all(lambda: join_rank_0(meeting.group_for(1), make_hello(1)))
        frames, _, _ = meeting.end()
    connection.close()
    frames[1].close()
