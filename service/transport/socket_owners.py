"""The TCP connections of processes, by their ports.

On Linux the kernel is asked for connections by sock_diag(7), and each process for its descriptors
alone. One connection takes 25 us and 100 take 1.2 ms. All of them take 3.5 ms, most of which the
kernel spends on the free places of its table, and 7 ms if there are 900; the text of
`/proc/net/tcp` takes 15 and 17 ms, and psutil (7.2), which reads the text for each process, more
(medians on two cores). The rest of a look-up are the descriptors. A client that opens hundreds of
connections has the service look often. Use psutil alone when it is as quick.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import psutil

from service.transport.clients import Peer

# A connection's port, and that at its other end.
Ports = tuple[int, int]
# By what a file descriptor of a process links to.
Connections = dict[str, Ports]
# Of each process that is looked at in turn.
PortsByProcess = Iterator[tuple[int, list[Ports]]]

PROCESSES = Path("/proc")
# Of linux/netlink.h, linux/sock_diag.h and linux/tcp_states.h.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_REQUEST_DUMP = 0x001, 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
# A socket that listens or is closed has no other end, and one in TIME_WAIT no process.
STATES = 0xFFF & ~(1 << 10 | 1 << 7 | 1 << 6)
# struct nlmsghdr: length, type, flags, sequence and port.
HEADER = struct.Struct("=IHHII")
# struct inet_diag_req_v2, but for the socket: family, protocol, states.
REQUEST = struct.Struct("=BBxxI")
# struct inet_diag_sockid: ports, addresses, interface and cookie.
ANY_SOCKET = bytes(48)
SOCKET = struct.Struct("!HH16s16sI8s")
ANY_COOKIE = b"\xff" * 8
# Behind the header, struct inet_diag_msg: the ports are in the order of the network.
PORTS, PORTS_AT = struct.Struct("!HH"), HEADER.size + 4
INODE, INODE_AT = struct.Struct("=I"), HEADER.size + 68
ERROR = struct.Struct("=i")
# The link of a connection that no process has any more.
CLOSED = "socket:[0]"
RECEIVE_BYTES = 1 << 20
RECEIVE_ONE_BYTES = 1 << 12
TIMEOUT_S = 1.0
MAX_ASKED = 128
"""For more connections the kernel is asked for all, which takes as long as 300 of them."""


def list_ports(pids: Iterable[int], connections: Connections | None) -> PortsByProcess:
    """Those of these `connections` that these processes have; without any known all of theirs.

    A process that is not shown to this user has none.
    """
    for pid in pids:
        if connections is None:
            yield pid, list_ports_of(pid)
        else:
            yield pid, [connections[link] for link in read_links(pid) if link in connections]


def list_ports_of(pid: int) -> list[Ports]:
    """The TCP connections of one process."""
    found = []
    with contextlib.suppress(psutil.Error):
        for each in psutil.Process(pid).net_connections("tcp"):
            # A socket that listens has no other end.
            if each.raddr:
                found.append((each.laddr.port, each.raddr.port))  # noqa: PERF401 (for mypy)
    return found


def read_connections(peers: Collection[Peer]) -> Connections | None:
    """Those of these clients' connections that are open, and maybe others.

    None where they are not shown: psutil may read one process after the other.
    """
    if sys.platform != "linux":
        return None
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(TIMEOUT_S)
            if len(peers) > MAX_ASKED:
                return read_all(kernel)
            return dict(found for peer in peers if (found := read_one(kernel, peer)))
    except OSError:
        return None


def read_all(kernel: socket.socket) -> Connections:
    """All TCP connections of this network.

    Raises:
        OSError: the kernel refuses.
    """
    found: Connections = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        kernel.send(request_connections(family, NLM_F_REQUEST_DUMP, ANY_SOCKET))
        while not read_messages(kernel.recv(RECEIVE_BYTES), found):
            pass
    return found


def read_one(kernel: socket.socket, peer: Peer) -> tuple[str, Ports] | None:
    """The link and the ports of the client's end of a connection; None if its process closed it.

    Raises:
        OSError: the kernel refuses, or the addresses are none.
    """
    family = socket.AF_INET6 if ":" in peer.host else socket.AF_INET
    client, server = (
        socket.inet_pton(family, host.partition("%")[0]) for host in (peer.host, peer.server_host)
    )
    sought = SOCKET.pack(*peer.ports, client, server, 0, ANY_COOKIE)
    kernel.send(request_connections(family, NLM_F_REQUEST, sought))
    data = kernel.recv(RECEIVE_ONE_BYTES)
    _, kind, *_ = HEADER.unpack_from(data)
    if kind == NLMSG_ERROR and ERROR.unpack_from(data, HEADER.size) == (-errno.ENOENT,):
        return None
    found: Connections = {}
    read_messages(data, found)
    [(link, ports)] = found.items()
    # Without a connection the kernel finds a socket that listens at its port.
    return (link, ports) if ports == peer.ports and link != CLOSED else None


def request_connections(family: int, flags: int, sought: bytes) -> bytes:
    """The message that asks for connections of an address family."""
    body = REQUEST.pack(family, socket.IPPROTO_TCP, STATES) + sought
    length = HEADER.size + len(body)
    return HEADER.pack(length, SOCK_DIAG_BY_FAMILY, flags, 0, 0) + body


def read_messages(data: bytes, found: dict[str, Ports]) -> bool:
    """Add the connections of some messages to `found`; whether they are the last ones.

    Raises:
        OSError: the kernel refuses.
    """
    at = 0
    while at < len(data):
        length, kind, *_ = HEADER.unpack_from(data, at)
        if kind == NLMSG_DONE:
            return True
        if kind == NLMSG_ERROR:
            raise OSError("the kernel lists no connections")
        (inode,) = INODE.unpack_from(data, at + INODE_AT)
        found[f"socket:[{inode}]"] = PORTS.unpack_from(data, at + PORTS_AT)
        # Messages are aligned to four bytes.
        at += (length + 3) & ~3
    return False


def read_links(pid: int) -> Iterator[str]:
    """What the file descriptors of a process link to; none if it is gone or not shown."""
    try:
        with os.scandir(PROCESSES / str(pid) / "fd") as descriptors:
            for descriptor in descriptors:
                # It may be closed meanwhile.
                with contextlib.suppress(OSError):
                    yield os.readlink(descriptor)  # noqa: PTH115 (a path would double the time)
    except OSError:
        return
