"""The connections of processes are those that psutil finds, and none of those that are gone."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack

import pytest

from service.transport.socket_owners import HEADER, NLMSG_ERROR, list_ports, list_ports_of


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_the_connections_of_a_process_are_those_that_psutil_finds(
    family: socket.AddressFamily, host: str
) -> None:
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((host, 0), family=family))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        port = listener.getsockname()[1]
        own = [stack.enter_context(socket.create_connection((host, port))) for _ in range(3)]
        for _ in own:
            stack.enter_context(listener.accept()[0])
        [(pid, found)] = list_ports([os.getpid()])
        assert pid == os.getpid()
        assert sorted(found) == sorted(list_ports_of(pid))
        ports = {(each.getsockname()[1], port) for each in own}
        # A socket that listens is in no connection.
        assert ports < set(found)
        assert not {0} & {number for pair in found for number in pair}


def test_a_process_that_has_ended_has_no_connections() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert list(list_ports([process.pid])) == [(process.pid, [])]
    assert list(list_ports([])) == []


class RefusingKernel(socket.socket):
    """A netlink socket whose kernel answers each request with an error."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        error = struct.pack("=i", -errno.EPERM)
        return HEADER.pack(HEADER.size + len(error), NLMSG_ERROR, 0, 0, 0) + error


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sock_diag")
def test_where_the_kernel_lists_no_connections_psutil_finds_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as own,
    ):
        monkeypatch.setattr(socket, "socket", RefusingKernel)
        [(pid, found)] = list_ports([os.getpid()])
        assert pid == os.getpid()
        assert (own.getsockname()[1], listener.getsockname()[1]) in found
