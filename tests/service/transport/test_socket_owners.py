"""The connections of processes are those that psutil finds, and none of those that are gone."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from service.transport import socket_owners
from service.transport.clients import Peer
from service.transport.socket_owners import (
    HEADER,
    NLMSG_ERROR,
    Connections,
    list_ports,
    list_ports_of,
    read_connections,
)

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sock_diag")
# The host where the service listens, and the one that the client connects to.
HOSTS = [
    ("127.0.0.1", "127.0.0.1"),
    ("::1", "::1"),
    ("::", "::1"),
    ("::", "127.0.0.1"),
    ("::", "::ffff:127.0.0.1"),
    ("0.0.0.0", "::ffff:127.0.0.1"),
    pytest.param("0.0.0.0", "127.0.0.2", marks=ON_LINUX),
]
each_kind_of_host = pytest.mark.parametrize(("listening", "host"), HOSTS)


@contextmanager
def connections_to(listening: str, host: str, count: int = 3) -> Iterator[list[Peer]]:
    """The connections of this process to itself, as a service sees them."""
    family = socket.AF_INET6 if ":" in listening else socket.AF_INET
    both = listening == "::"
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(
                socket.create_server((listening, 0), family=family, dualstack_ipv6=both)
            )
            to = (host, listener.getsockname()[1])
            for _ in range(count):
                stack.enter_context(socket.create_connection(to))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        accepted = [stack.enter_context(listener.accept()[0]) for _ in range(count)]
        yield [Peer(*each.getpeername()[:2], *each.getsockname()[:2]) for each in accepted]


def ports_here(connections: Connections | None) -> list[tuple[int, int]]:
    [(pid, found)] = list_ports([os.getpid()], connections)
    assert pid == os.getpid()
    return sorted(found)


@ON_LINUX
@each_kind_of_host
def test_of_few_connections_the_kernel_is_asked_for_each(
    listening: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket_owners, "read_all")
    with connections_to(listening, host) as peers:
        connections = read_connections(peers[1:])
        assert connections is not None
        assert ports_here(connections) == sorted(peer.ports for peer in peers[1:])
        assert len(connections) == len(peers[1:])
    assert read_connections(peers) == {}


@each_kind_of_host
def test_of_many_connections_all_are_read_and_are_those_that_psutil_finds(
    listening: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_owners, "MAX_ASKED", 2)
    with connections_to(listening, host) as peers:
        found = ports_here(read_connections(peers))
        assert found == sorted(list_ports_of(os.getpid()))
        # A socket that listens is in no connection.
        assert {peer.ports for peer in peers} < set(found)
        assert not {0} & {number for pair in found for number in pair}


@ON_LINUX
def test_a_socket_that_listens_at_the_port_of_a_closed_connection_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # There is no connection from this port.
        peer = Peer("127.0.0.1", listener.getsockname()[1], "127.0.0.1", 9)
        assert read_connections([peer]) == {}


@ON_LINUX
def test_a_connection_that_its_process_has_closed_and_the_kernel_keeps_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        with listener.accept()[0] as accepted:
            peer = Peer(*accepted.getpeername()[:2], *accepted.getsockname()[:2])
            client.close()
            assert read_connections([peer]) == {}


def test_a_process_that_has_ended_has_no_connections() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert list(list_ports([process.pid], None)) == [(process.pid, [])]
    assert list(list_ports([process.pid], {})) == [(process.pid, [])]
    assert list(list_ports([], None)) == []


class RefusingKernel(socket.socket):
    """A netlink socket whose kernel answers each request with an error."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        error = struct.pack("=i", -errno.EPERM)
        return HEADER.pack(HEADER.size + len(error), NLMSG_ERROR, 0, 0, 0) + error


@ON_LINUX
@pytest.mark.parametrize("limit", [0, 128])
def test_where_the_kernel_shows_no_connections_psutil_finds_them(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(socket_owners, "MAX_ASKED", limit)
    with connections_to("127.0.0.1", "127.0.0.1") as peers:
        monkeypatch.setattr(socket, "socket", RefusingKernel)
        connections = read_connections(peers)
        assert connections is None
        assert {peer.ports for peer in peers} < set(ports_here(connections))
