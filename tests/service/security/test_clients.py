"""The client of a request: a key, an address, a process or a connection."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable

import pytest
from starlette.types import Scope

from service.security import peer_processes
from service.security.clients import ClientNames, PeerNames
from service.security.peer_processes import (
    KEEP_S,
    LOOK_UP,
    RENEW_S,
    PeerProcesses,
)
from service.transport.clients import Peer
from service.transport.socket_owners import Connections, PortsByProcess
from tests.waiting import HANG_S, POLL_S

pytestmark = pytest.mark.anyio

SERVER_PORT = 8000
CONNECT = """
import socket, sys
connections = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(2)]
print(*[each.getsockname()[1] for each in connections], flush=True)
sys.stdin.read()
"""


def scope_of(host: str, port: int = 5000, key: str | None = None) -> Scope:
    state = {} if key is None else {"key_name": key}
    return {"client": (host, port), "server": ("127.0.0.1", SERVER_PORT), "state": state}


class Table:
    """The connections of all processes, as the system would list them; counts its look-ups."""

    def __init__(self, ports: dict[int, list[int]]) -> None:
        self.ports = ports
        self.asked: list[list[int]] = []
        # Of processes that are not shown.
        self.hidden: set[int] = set()
        self.full_scans = 0
        self.scans_of_one = 0

    def read(self, peers: Collection[Peer]) -> Connections:
        """Those of the connections that are open; as the kernel, it may give no others."""
        self.asked.append(sorted(peer.port for peer in peers))
        ports = {port for each in self.ports.values() for port in each} | self.hidden
        return {str(peer): peer.ports for peer in peers if peer.port in ports}

    def of(self, pids: Iterable[int], connections: Connections | None) -> PortsByProcess:
        for pid in pids:
            self.scans_of_one += 1
            ports = [(port, SERVER_PORT) for port in self.ports.get(pid, [])]
            yield pid, [each for each in ports if each in (connections or {}).values()]

    def all(self) -> list[int]:
        self.full_scans += 1
        return list(self.ports)


async def test_a_key_comes_before_any_address() -> None:
    names = ClientNames(PeerNames(PeerProcesses()))
    assert await names.find_name(scope_of("127.0.0.1", key="ci")) == "key ci"
    assert await names.find_name(scope_of("192.0.2.7")) == "address 192.0.2.7"
    assert await names.find_name(scope_of("::ffff:192.0.2.7")) == "address 192.0.2.7"


async def test_the_addresses_of_one_ipv6_network_are_one_client() -> None:
    names = ClientNames(PeerNames(PeerProcesses()))
    one, two, other = (
        names.name_now(scope_of(host))
        for host in ("2001:db8:0:1::5", "2001:db8:0:1:9::1", "2001:db8:0:2::5")
    )
    assert one == two != other


async def test_the_connections_of_one_process_are_one_client_found_by_one_look_up() -> None:
    table = Table({11: [5000, 5001, 5002], 12: [6000]})
    names = ClientNames(PeerNames(PeerProcesses(table.read, table.of, table.all, now=lambda: 0.0)))
    assert names.name_now(scope_of("127.0.0.1", 5000)) == "connection 5000"
    found = await asyncio.gather(
        *(names.find_name(scope_of("127.0.0.1", port)) for port in (5000, 5001, 5002, 6000))
    )
    assert found == ["process 11"] * 3 + ["process 12"]
    assert table.full_scans == 1
    table.ports[11].append(5003)
    assert await names.find_name(scope_of("::1", 5003)) == "process 11"
    assert table.full_scans == 1


async def test_a_process_that_is_not_shown_leaves_the_connection_as_the_client() -> None:
    table = Table({})
    names = ClientNames(PeerNames(PeerProcesses(table.read, table.of, table.all, now=lambda: 0.0)))
    for _ in range(3):
        assert await names.find_name(scope_of("127.0.0.1", 5000)) == "connection 5000"
    assert table.full_scans == 1


async def test_connections_that_have_ended_delay_no_other() -> None:
    table = Table({11: [5000], 12: [5001]})
    names = ClientNames(PeerNames(PeerProcesses(table.read, table.of, table.all, now=lambda: 0.0)))
    ports = (5000, *range(6000, 6100), 5001)
    table.scans_of_one = 0
    found = await asyncio.gather(*(names.find_name(scope_of("127.0.0.1", port)) for port in ports))
    assert (found[0], found[-1]) == ("process 11", "process 12")
    assert table.scans_of_one == len(table.ports)


async def test_those_that_come_during_a_look_up_share_the_next_one() -> None:
    begun, may_end = threading.Event(), threading.Event()
    table = Table({11: [5000, 5001, 5002]})

    def list_slowly() -> list[int]:
        begun.set()
        assert may_end.wait(HANG_S)
        return table.all()

    processes = PeerProcesses(table.read, table.of, list_slowly, max_wait_s=HANG_S)
    names = ClientNames(PeerNames(processes))
    first = asyncio.create_task(names.find_name(scope_of("127.0.0.1", 5000)))
    assert await asyncio.to_thread(begun.wait, HANG_S)
    table.ports[12] = [6000]
    others = [
        asyncio.create_task(names.find_name(scope_of("127.0.0.1", port)))
        for port in (6000, 5001, *range(7000, 7010))
    ]
    await asyncio.sleep(0)
    may_end.set()
    assert await first == "process 11"
    assert (await asyncio.gather(*others))[:2] == ["process 12", "process 11"]
    assert table.full_scans <= 2


async def test_a_slow_look_up_leaves_the_connection_as_the_client_until_it_ends() -> None:
    may_end = threading.Event()
    table = Table({11: [5000]})

    def list_slowly() -> list[int]:
        assert may_end.wait(HANG_S)
        return table.all()

    renamed: list[tuple[str, str]] = []
    processes = PeerProcesses(table.read, table.of, list_slowly, max_wait_s=0.0)
    names = ClientNames(PeerNames(processes, lambda *pair: renamed.append(pair)))
    assert await names.find_name(scope_of("127.0.0.1", 5000)) == "connection 5000"
    assert not renamed
    may_end.set()
    [look_up] = [each for each in asyncio.all_tasks() if each.get_name() == LOOK_UP]
    await look_up
    assert renamed == [("connection 5000", "process 11")]
    assert names.name_now(scope_of("127.0.0.1", 5000)) == "process 11"


async def test_connections_that_were_named_without_a_look_up_are_named_by_the_next_one() -> None:
    table = Table({11: [5000, 5001], 12: [6000]})
    renamed: list[tuple[str, str]] = []
    processes = PeerProcesses(table.read, table.of, table.all, now=lambda: 0.0)
    names = ClientNames(PeerNames(processes, lambda *pair: renamed.append(pair)))
    assert names.name_now(scope_of("127.0.0.1", 5000)) == "connection 5000"
    assert await names.find_name(scope_of("127.0.0.1", 5001)) == "process 11"
    assert ("connection 5000", "process 11") in renamed
    renamed.clear()
    table.ports[11].append(5002)
    assert await names.find_name(scope_of("127.0.0.1", 5002)) == "process 11"
    assert renamed == [("connection 5002", "process 11")]


async def test_a_look_up_is_for_the_connections_that_wait_and_those_that_have_no_process() -> None:
    table = Table({11: [5000, 5001, 5002, 5003]})
    now = [0.0]
    processes = PeerProcesses(table.read, table.of, table.all, now=lambda: now[0])
    names = ClientNames(PeerNames(processes))
    table.hidden = {6000}
    for port in (5000, 6000, 7000):
        names.name_now(scope_of("127.0.0.1", port))
    assert await names.find_name(scope_of("127.0.0.1", 5001)) == "process 11"
    assert await names.find_name(scope_of("127.0.0.1", 5002)) == "process 11"
    # The last one is closed. The first look-up is at all processes.
    assert table.asked == [[5000, 5001, 6000, 7000]] * 2 + [[5002, 6000]]
    now[0] += RENEW_S
    assert await names.find_name(scope_of("127.0.0.1", 5003)) == "process 11"
    assert table.asked[-1] == [5000, 5001, 5002, 5003, 6000]
    now[0] += RENEW_S
    assert names.name_now(scope_of("127.0.0.1", 5000)) == "process 11"


async def test_what_came_too_early_for_a_look_at_all_processes_is_found_by_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_processes, "FULL_SCAN_INTERVAL_S", POLL_S)
    now = [0.0]
    table = Table({11: [5000]})
    found: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    processes = PeerProcesses(table.read, table.of, table.all, now=lambda: now[0])
    names = ClientNames(PeerNames(processes, lambda *pair: found.put_nowait(pair)))
    assert await names.find_name(scope_of("127.0.0.1", 5000)) == "process 11"
    assert await found.get() == ("connection 5000", "process 11")
    table.ports[12] = [6000]
    assert await names.find_name(scope_of("127.0.0.1", 6000)) == "connection 6000"
    assert await names.find_name(scope_of("127.0.0.1", 7000)) == "connection 7000"
    now[0] += POLL_S
    assert await asyncio.wait_for(found.get(), HANG_S) == ("connection 6000", "process 12")
    # One that is in no table is not looked for for ever.
    scans = table.full_scans
    now[0] += POLL_S
    for _ in range(3):
        await asyncio.sleep(POLL_S)
    assert table.full_scans == scans


async def test_a_port_is_looked_up_again_after_a_while() -> None:
    now = [0.0]
    table = Table({11: [5000]})
    processes = PeerProcesses(table.read, table.of, table.all, now=lambda: now[0])
    names = ClientNames(PeerNames(processes))
    assert await names.find_name(scope_of("127.0.0.1", 5000)) == "process 11"
    table.ports = {12: [5000]}
    now[0] += KEEP_S
    assert await names.find_name(scope_of("127.0.0.1", 5000)) == "process 12"


async def test_the_system_names_the_process_of_a_real_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server_port = listener.getsockname()[1]
        with subprocess.Popen(  # noqa: ASYNC220 (it only connects)
            [sys.executable, "-c", CONNECT, str(server_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            ports = [int(port) for port in child.stdout.readline().split()]
            peers = [Peer("127.0.0.1", port, "127.0.0.1", server_port) for port in ports]
            processes = PeerProcesses()
            assert [await processes.find(peer) for peer in peers] == [child.pid] * 2
            with socket.create_connection(("127.0.0.1", server_port)) as own:
                peer = Peer(*own.getsockname(), *own.getpeername())
                found = await PeerProcesses().find(peer)
            assert found == os.getpid()
            child.communicate()
